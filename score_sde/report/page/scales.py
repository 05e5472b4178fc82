"""Axes: from values to places on a chart, round numbers to mark, and how they are written."""

import dataclasses
import math
from collections.abc import Sequence

from score_sde.report.page.figures import MINUS, TIMES, number

_TINY, _HUGE = 1e-150, 1e150  # magnitudes that an axis shows; their ratios and differences are numbers too


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from ``low`` to ``high``, drawn between the pixels ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, kept on the axis.

        >>> Scale(1.0, 100.0, 0.0, 10.0, log=True)(10.0)
        5.0
        """
        low, high = self._warped(self.low), self._warped(self.high)
        share = (self._warped(max(value, self.low) if self.log else value) - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _warped(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, count: int = 5) -> list[float]:
        """About ``count`` round numbers on the axis."""
        if self.log and self.high / self.low > 4.0:
            return log_ticks(self.low, self.high, count)
        return linear_ticks(self.low, self.high, count)


def scale_of(values: Sequence[float], start: float, end: float, *, log: bool = False, tight: bool = False) -> Scale:
    """An axis for finite values, with a little room at both ends unless it is tight; logarithmic only if they allow it.

    Values that are all the same get an axis too, and those whose differences no double can hold are cut off.

    >>> scale_of([2.0, 2.0], 0.0, 10.0)(2.0)
    5.0
    """
    values = [min(max(value, -_HUGE), _HUGE) if abs(value) > _TINY else 0.0 for value in values]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    log = log and low > 0.0
    if log:
        room = 1.0 if tight else max((high / low) ** 0.05, 1.02)
        low, high = low / room, high * room
        return Scale(low, high if high > low else 2.0 * low, start, end, log=True)
    room = 0.0 if tight else 0.06 * (high - low)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = 0.5 * abs(low) or 0.5
    return Scale(low - room, high + room, start, end)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten.

    >>> linear_ticks(0.0, 3000.0), linear_ticks(1.87, 2.16, 4)
    ([0.0, 1000.0, 2000.0, 3000.0], [1.9, 2.0, 2.1])
    """
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= 0.999 * raw), 10.0 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded to the digits of the step, or 3 * 0.1 would show.
    digits = max(0, -math.floor(math.log10(step)))
    return [round(index * step, min(digits, 300)) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Powers of ten, thinned where there are many, and their multiples by 2 and 5 where there are few.

    >>> log_ticks(0.07, 0.9), log_ticks(1.0, 1e6, 4)
    ([0.1, 0.2, 0.5], [1.0, 100.0, 10000.0, 1000000.0])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = math.log10(high / low)
    factors = (1.0, 2.0, 5.0) if decades < 2.5 else ((1.0, 3.0) if decades < 3.5 else (1.0,))
    stride = max(1, math.ceil(decades / count)) if len(factors) == 1 else 1
    found = [factor * 10.0**power for power in range(first, last + 1, stride) for factor in factors]
    return [float(f"{value:.3g}") for value in found if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]


def tick_label(value: float) -> str:
    """A round number, short.

    >>> [tick_label(value) for value in (0.0, 0.05, 1500.0, 200000.0, 1.3e6, 1e-5)]
    ['0', '0.05', '1.5k', '200k', '1.3M', '10⁻⁵']
    """
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1000 * unit:
            return f"{value / unit:.6g}{suffix}".replace("-", MINUS)
    text = number(value)
    return text.removeprefix(f"1 {TIMES} ")
