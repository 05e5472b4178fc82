"""Memory and speed of a training run, predicted from its compiled program and the data sheet of a chip."""
