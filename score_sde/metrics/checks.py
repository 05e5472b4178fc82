"""Checks of the arrays that metrics receive."""

import numpy as np

from score_sde.errors import UserError


def finite_rows(x: np.ndarray, what: str) -> np.ndarray:
    """The array as ``(n, d)``, events flattened, checked to hold finite numbers.

    Messages call its content ``what``.

    Raises:
        UserError: For an array without examples or without an axis of them, and for NaN or infinity, with the number of
            affected examples.

    >>> finite_rows(np.zeros((2, 3, 4)), "samples").shape
    (2, 12)
    """
    if x.ndim < 2 or x.size == 0:
        raise UserError(f"The {what} have shape {x.shape}; expected (examples, dimensions), neither of them zero.")
    rows = x.reshape(len(x), -1)
    broken = int(len(rows) - np.isfinite(rows).all(axis=1).sum())
    if broken:
        raise UserError(
            f"{broken} of {len(rows)} {what} hold NaN or infinity; expected numbers. Look for a sampler that diverges; "
            "leaving out its failures would flatter the metric."
        )
    return rows


def same_dimension(x: np.ndarray, y: np.ndarray, what: str) -> None:
    """Refuse two sets of rows of different dimensions."""
    if x.shape[1] != y.shape[1]:
        raise UserError(
            f"The {what} of the two sets have {x.shape[1]} and {y.shape[1]} dimensions; expected the same; use one "
            "extractor, or images of one shape, for both."
        )
