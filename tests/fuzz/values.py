"""Values for every field, made from its description: those at its bounds, those beyond them, and plain nonsense."""

import math

from score_sde.fields.kinds import Choice, Flag, Integer, Path, Real, Several, Text

#: What no field, or almost none, may be, whatever its kind.
NONSENSE = (
    *(None, True, 0, -1, 1, 0.0, -1.0, 1.5, 1e30, 1e-30, math.nan, math.inf, -math.inf),
    *(2**31, 2**63, -(2**63), 10**30, 10**5000, 1j, b"x", object()),
    *("", " ", "x" * 5000, "x" * 300, "a\0b", "\ud800", "☃ünï", "nan", "None", "../" * 2000),
    *((), (1,), (1, 1), (0,), (-1,), (True,), (0.5,), (math.nan,), (2**63,), (10**30,), ("x",), ("x", "x"), ((1,),)),
    *((None,), tuple(range(1, 1000)), [1], [[1]], (1, "x"), ("",), (1e30,)),
)
#: The same as somebody may type it.
TEXTS = (
    *(
        "",
        " ",
        "None",
        "True",
        "true",
        "yes",
        "0",
        "1",
        "-1",
        "1.5",
        "-0.0",
        "nan",
        "inf",
        "-inf",
        "1e30",
        "1e-30",
        "1e999",
    ),
    *(str(2**31), str(2**63), str(10**30), "9" * 5000, "0x10", "1_0", "٣", "½", "1,5", "1e", "--1", "=", "a=b"),
    *(
        "x" * 5000,
        "a\0b",
        "☃ünï",
        "'",
        '"x',
        "None,",
        "()",
        "(1,)",
        "(1, 1)",
        "((1,),)",
        "1,,2",
        ",",
        "(",
        "[1,2",
        "{}",
    ),
    *("(True,)", "(nan,)", "('x',)", "__import__('os').abort()", "%s", "../" * 2000),
)


def good_values(kind):
    """Values that the description allows: the default, the bounds, every name."""
    if isinstance(kind, Flag):
        return [True, False]
    if isinstance(kind, Integer):
        zero, step = [0] if kind.or_zero else [], 1 + kind.even
        return [
            *zero,
            kind.low,
            min(kind.low + step, kind.high),
            kind.default or kind.low,
            kind.high - kind.high % step,
        ]
    if isinstance(kind, Real):
        middle = math.sqrt(kind.low * kind.high) if kind.low > 0.0 else (kind.low + kind.high) / 2.0
        return [*([0.0] if kind.or_zero else []), kind.low, middle, kind.high]
    if isinstance(kind, Choice):
        return [*kind.names, *(f"{prefix}there/is none" for prefix in kind.prefixes)]
    if isinstance(kind, Text | Path):
        return [kind.default, *TEXT_EXAMPLES.get(kind.meaning, ["some/file.npz"])]
    return _good_tuples(kind)


#: Fields whose form no one can guess.
TEXT_EXAMPLES = {
    "TPUs to compile for without having them (needs libtpu); empty for this machine": ["2x2", "2x2x1"],
    "which checkpoints; the best of what was evaluated before, else by the loss in training": [
        "all",
        "best",
        "1:",
        "1,2",
    ],
    "the license of the model in its card": ["cc-by-4.0"],
}


def bad_values(kind):
    """Values just beyond what the description allows, and those of neighboring kinds."""
    if isinstance(kind, Flag):
        return [0, 1, "True", None, (True,)]
    if isinstance(kind, Integer):
        odd = [kind.low + 1] if kind.even else []
        return [kind.low - 1, kind.high + 1, -kind.high - 1, float(kind.low), True, str(kind.low), *odd]
    if isinstance(kind, Real):
        below = kind.low * 1.01 if kind.low < 0.0 else kind.low * 0.99 or -1e-6
        return [
            below,
            kind.high * 1.01,
            min(-kind.high, below),
            math.nan,
            math.inf,
            -math.inf,
            True,
            str(kind.high),
            (kind.high,),
        ]
    if isinstance(kind, Choice):
        return [typo(name) for name in kind.names if len(name) > 3 and not kind.accepts(typo(name))] + [
            f"{kind.names[0]} ",
            kind.names[-1].upper() + "!",
        ]
    if isinstance(kind, Text):
        return ["a\nb", "x" * 4097, "☃", 3]
    if isinstance(kind, Path):
        return ["a\0b", "x" * 4097, "x" * 256, "a\nb", 3]
    return _bad_tuples(kind)


def typo(name):
    """A name with its second letter left out.

    >>> typo("euler")
    'eler'
    """
    return name[:1] + name[2:]


def _entries(kind: Several, count: int):
    entries = [value for value in good_values(kind.of) if value != 0 or not kind.distinct]
    entries = list(dict.fromkeys(entries)) if kind.distinct else entries * count
    return tuple(entries[:count])


def _good_tuples(kind: Several):
    least, most = kind.lengths
    found = [kind.default, _entries(kind, least), _entries(kind, min(most, 4))]
    return [value for value in dict.fromkeys(found) if least <= len(value) <= most or (kind.or_empty and not value)]


def _bad_tuples(kind: Several):
    good, (least, most) = _entries(kind, max(kind.lengths[0], 1)), kind.lengths
    bad_entries = [(entry, *good[1:]) for entry in bad_values(kind.of)] + [(*good[:-1], good), (*good[:-1], list(good))]
    lengths = [good * (most + 1)] + ([()] if least and not kind.or_empty else [])
    return [*bad_entries, *lengths, list(good), *([good + good] if kind.distinct else [])]


def written(value):
    """A value as one types it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
