"""Score networks, and the adapter that turns a Flax module into a pair of pure functions."""
