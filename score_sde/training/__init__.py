"""Training: the state, the step, the optimizer, the loop, and the evaluation of what was trained."""
