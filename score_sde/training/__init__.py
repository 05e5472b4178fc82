"""Training: the state, the step, the optimiser, the loop, and the evaluation of what was trained."""
