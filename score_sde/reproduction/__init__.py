"""Published results as rows that can be measured again, and the comparison of what comes out with what was expected."""
