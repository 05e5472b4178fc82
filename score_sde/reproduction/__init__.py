"""Reproduction of published results: rows to measure again, and the comparison with the expected values."""
