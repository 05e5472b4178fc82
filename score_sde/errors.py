"""Errors that the user can fix: each names the given value, the expected one, and the remedy."""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class UserError(Exception):
    """Bad input from outside the program; the command line prints it without a traceback and exits with 2."""


def refuse(problems: Iterable[str]) -> None:
    """Raise one error that lists all problems, if there are any.

    >>> refuse([])
    >>> refuse(["a is 1; expected 2.", "b is 3; expected 4."])
    Traceback (most recent call last):
    score_sde.errors.UserError: 2 things are wrong:
      a is 1; expected 2.
      b is 3; expected 4.
    """
    found = list(dict.fromkeys(problems))
    if found:
        raise UserError(found[0] if len(found) == 1 else "\n  ".join([f"{len(found)} things are wrong:", *found]))


@contextlib.contextmanager
def explained(
    explain: Callable[[Exception], UserError], kinds: tuple[type[Exception], ...] = (Exception,)
) -> Iterator[None]:
    """A block whose exceptions of some kinds, by default of all, become errors that the user can fix.

    >>> with explained(lambda error: UserError(f"It cannot be divided ({error}).")):
    ...     1 / 0
    Traceback (most recent call last):
    score_sde.errors.UserError: It cannot be divided (division by zero).
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise explain(error) from error


class Preempted(Exception):
    """The run was told to end, and has saved everything it needs to continue.

    Attributes:
        code: The exit code of the command line: 0, or 130 after an interruption (SIGINT).
    """

    def __init__(self, message: str, *, code: int = 0) -> None:
        """Create the exception with a message about the saved state."""
        super().__init__(message)
        self.code = code


class Terminated(KeyboardInterrupt):
    """SIGTERM came where there is nothing left to save; the command line exits with 143."""


def plural(number: Any, one: str, many: str = "") -> str:
    """The noun for a number of things; by default its plural ends in s.

    >>> [f"{n} {plural(n, 'example')}" for n in (0, 1, 2)], plural(2, "batch", "batches")
    (['0 examples', '1 example', '2 examples'], 'batches')
    """
    return one if number == 1 else many or f"{one}s"


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that suggests the known name closest to a misspelt one, or an empty string.

    >>> nearest("digit", ["digits", "mnist"])
    " Did you mean 'digits'?"
    >>> nearest("xyz", ["digits", "mnist"])
    ''
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a registry: the list of names and the nearest one.

    >>> print(unknown("SDE", "subpv", ["subvp", "vp"]))
    Unknown SDE 'subpv'. Did you mean 'subvp'? Known: subvp, vp.
    """
    names = sorted(known)
    return UserError(f"Unknown {kind} '{name}'.{nearest(name, names)} Known: {', '.join(names)}.")
