"""``python -m score_sde``."""

from score_sde.cli import run

run()
