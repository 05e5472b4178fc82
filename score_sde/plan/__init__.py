"""What a training run will need and how fast it can go, from its compiled program and the data sheet of a chip."""
