"""The descriptions of the fields as text: the help of the command line, and the page ``docs/fields.md``.

``python -m score_sde.fields.reference > docs/fields.md`` writes the page.
"""

from collections.abc import Iterator

from score_sde.errors import UserError, nearest
from score_sde.fields.conditions import told, word
from score_sde.fields.kinds import Kind
from score_sde.fields.settings import FIELDS, GROUPS

_HEAD = """# The fields of a configuration

Every field is one line in `score_sde/fields/`, and this page is made of these lines by
`python -m score_sde.fields.reference > docs/fields.md`. `python -m score_sde --help=sampling.snr` tells the same of one
field, `--help=sampling` of a group; `--config.sampling.snr=0.2` sets a field. A mode names every field that has another
value than its default and is not read because of the others.
"""


def help_on(asked: str) -> str:
    """The description of a field, of the fields of a group, or of all fields with the same last word.

    Raises:
        UserError: For an unknown name, with the nearest one.

    >>> print(help_on("snr"))
    config.sampling.snr
      signal-to-noise ratio of a correction
      default: 0.16
      values: a number from 0 to 10
      read where config.model.name is not vae
        and config.sampling.corrector is not none
      not read by --mode=pareto: config.pareto is
    """
    name = asked.removeprefix("--").removeprefix("config.")
    group, last = ([field for field in FIELDS if field.rpartition(".")[index] == name] for index in (0, 2))
    found = [name] if name in FIELDS else group or last
    if not found:
        known = [*filter(None, GROUPS), *FIELDS, *(field.rpartition(".")[2] for field in FIELDS)]
        groups = ", ".join(filter(None, GROUPS))
        raise UserError(f"There is no field or group '{asked}'.{nearest(name, known)} The groups are {groups}.")
    return "\n\n".join("\n  ".join([f"config.{field}", *_facts(FIELDS[field])]) for field in found)


def _facts(kind: Kind) -> Iterator[str]:
    yield kind.meaning
    yield f"default: {word(kind.default)}"
    yield f"values: {kind.expected}"
    if kind.when:
        yield "read where " + "\n    and ".join(map(told, kind.when.clauses))
    for group in kind.instead:
        yield f"not read by --mode={_MODES[group]}: config.{group} is"


_MODES = {"pareto": "pareto", "evaluation": "eval"}  # modes that take such fields from a group of their own


def page() -> str:
    """The reference of all fields in Markdown: a table for every group."""
    parts = [_HEAD]
    for group, cls in GROUPS.items():
        rows = [
            f"| `{field}` | {' | '.join(map(_cell, (word(kind.default), kind.expected, kind.meaning, _where(kind))))} |"
            for field, kind in FIELDS.items()
            if field.rpartition(".")[0] == group
        ]
        head = ["| Field | Default | Values | Meaning | Read where |", "| --- | --- | --- | --- | --- |"]
        doc = (cls.__doc__ or "").strip()
        parts.append("\n".join([f"## {group or 'At the top'}\n\n{doc}\n", *head, *rows, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*").replace("_", r"\_").replace("<", r"\<")


def _where(kind: Kind) -> str:
    return str(kind.when).replace("config.", "") if kind.when else "always"


if __name__ == "__main__":
    print(page(), end="")
