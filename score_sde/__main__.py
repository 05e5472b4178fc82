"""``python -m score_sde``, and the command ``score_sde``."""

from score_sde.startup import begin


def run() -> None:
    """Set up the process, run the command line in it, and end with its exit code."""
    begin()  # before the other imports, which take a while and may be interrupted
    import sys

    from score_sde.border import guard
    from score_sde.cli import main

    sys.exit(guard(lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
