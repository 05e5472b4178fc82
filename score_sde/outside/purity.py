"""Whether a function of the user's is one: the same result for the same arguments."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def impure(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a function computes something else when it is called with the same arguments a second time.

    >>> impure(jax.numpy.sin, 1.0), impure(lambda x: x + np.random.rand(), 1.0)
    (False, True)
    """
    programs = [jax.make_jaxpr(lambda *given: function(*given))(*arguments) for _ in range(2)]
    texts = {re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr)) for program in programs}
    first, second = (program.consts for program in programs)
    return len(texts) > 1 or not all(map(np.array_equal, first, second))
