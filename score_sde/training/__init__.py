"""Training: the objective, the step, the optimizer, parameter averages, the loop, and its logs."""
