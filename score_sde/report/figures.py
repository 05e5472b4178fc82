"""Numbers for people: as many digits as the error justifies, and no needless exponents."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Z95 = 1.96  # half a 95 % interval of a normal distribution, in standard errors
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


class Estimate(NamedTuple):
    """A number with its standard error and 95 % interval, where known."""

    value: float
    std_error: float | None = None
    interval: tuple[float, float] | None = None


def clean(text: str) -> str:
    r"""Text that any file can hold: lone surrogates (which JSON allows) and control characters are replaced.

    >>> clean("a\x00b"), clean("\ud800")
    ('a\ufffdb', '?')
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def dig(value: Any, *keys: str) -> Any:
    """The value under nested keys of parsed JSON, or None.

    >>> dig({"a": {"b": 1}}, "a", "b"), dig({"a": 2}, "a", "b"), dig([], "a")
    (1, None, None)
    """
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def real(value: Any) -> float | None:
    """A number from parsed JSON, perhaps not finite; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond the largest float
        return math.inf if value > 0 else -math.inf


def finite(value: Any) -> float | None:
    """A finite number from parsed JSON, or None."""
    found = real(value)
    return found if found is not None and math.isfinite(found) else None


def estimate(value: Any, std_error: Any = None, interval: Any = None) -> Estimate | None:
    """A number with its error, from parsed JSON; None if there is no number."""
    found = real(value)
    ends = [finite(end) for end in interval] if isinstance(interval, list | tuple) else []
    low, high = ends if len(ends) == 2 else (None, None)
    both = None if low is None or high is None else (low, high)
    return None if found is None else Estimate(found, finite(std_error), both)


def series(records: Iterable[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Steps and values of one metric from metrics records; values may be NaN.

    >>> series([{"step": 1, "loss": 0.5}, {"step": 2}], "loss")
    [(1.0, 0.5)]
    """
    pairs = ((finite(record.get("step")), real(record.get(name))) for record in records)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def number(value: Any, digits: int = 4) -> str:
    """A number to ``digits`` significant digits; integers in full, powers of ten for extreme magnitudes only.

    >>> number(3000), number(0.08395520), number(1.98e-05), number(-2.5), number(float("nan")), number("x")
    ('3,000', '0.08396', '1.98 × 10⁻⁵', '−2.5', 'not a number', '–')
    """
    found = real(value)
    if found is None:
        return DASH
    if not math.isfinite(found):
        return "not a number" if math.isnan(found) else ("∞" if found > 0 else f"{MINUS}∞")
    if found == 0 or (found.is_integer() and abs(found) < 1e15 and isinstance(value, int)):
        return f"{found:,.0f}".replace("-", MINUS)
    exponent = math.floor(math.log10(abs(found)))
    if exponent < -3 or exponent > 6:
        mantissa, power = f"{found:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa} {TIMES} 10{str(int(power)).translate(_SUPERSCRIPT)}".replace("-", MINUS)
    text = f"{found:,.{max(0, digits - 1 - exponent)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def tick_label(value: float) -> str:
    """A short label for a round number.

    >>> [tick_label(value) for value in (0.0, 0.05, 1500.0, 200000.0, 1.3e6, 1e-5)]
    ['0', '0.05', '1.5k', '200k', '1.3M', '10⁻⁵']
    """
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1000 * unit:
            return f"{value / unit:.6g}{suffix}".replace("-", MINUS)
    return number(value).removeprefix(f"1 {TIMES} ")


def fixed(value: float, decimals: int, *, sign: bool = False) -> str:
    """A number with a fixed number of decimals."""
    if not math.isfinite(value):
        return number(value)
    return format(value, f"{'+' if sign else ''},.{decimals}f").replace("-", MINUS)


def decimals_for(error: float | None) -> int | None:
    """Decimals that show two digits of an error; None for a missing or zero error.

    >>> decimals_for(0.0151), decimals_for(12.0), decimals_for(None), decimals_for(0.0)
    (3, 0, None, None)
    """
    if error is None or not math.isfinite(error) or not 1e-9 < error < 1e9:
        return None
    return max(0, 1 - math.floor(math.log10(error)))


def with_error(found: Estimate | None, *, sign: bool = False) -> str:
    """A number ± its standard error, both to the second digit of the error.

    >>> with_error(Estimate(1.97426, 0.01509)), with_error(Estimate(5.0)), with_error(None)
    ('1.974 ± 0.015', '5', '–')
    """
    if found is None:
        return DASH
    decimals = decimals_for(found.std_error)
    if decimals is None or not math.isfinite(found.value):
        text = number(found.value)
        return f"+{text}" if sign and found.value > 0 else text
    return f"{fixed(found.value, decimals, sign=sign)} ± {fixed(found.std_error or 0.0, decimals)}"


def span(found: Estimate) -> str:
    """The interval of an estimate, with the digits of its error, or nothing.

    >>> span(Estimate(1.97, 0.0151, (1.9447, 2.004)))
    '1.945 to 2.004'
    """
    if found.interval is None:
        return ""
    low, high = found.interval
    error = found.std_error or (high - low) / (2.0 * Z95)
    decimals = decimals_for(error)
    if decimals is None:
        return f"{number(low)} to {number(high)}"
    return f"{fixed(low, decimals)} to {fixed(high, decimals)}"


def duration(seconds: float) -> str:
    """Seconds in a readable form.

    >>> duration(9.38), duration(130.0), duration(3725.0), duration(200000.0)
    ('9.4 s', '2 min 10 s', '1 h 02 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minute:02d} min" if hours else f"{minute} min {second:02d} s"


def num_bytes(count: int) -> str:
    """A number of bytes in a readable form.

    >>> num_bytes(500), num_bytes(4096), num_bytes(3 * 2**20)
    ('500 B', '4.0 KiB', '3.0 MiB')
    """
    if count < 1024:
        return f"{count} B"
    for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1):
        if count < 1024 ** (power + 1) or unit == "TiB":
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count} B"
