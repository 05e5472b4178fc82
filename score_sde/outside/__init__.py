"""Parts of a run that lie outside the package, in modules of the user."""
