"""Groups of fields: a frozen dataclass that is also a mapping of its fields in the order of their names."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group(Mapping[str, Any]):
    """The values of some fields, as attributes and by their names.

    >>> from score_sde.fields import Settings
    >>> mesh = Settings().mesh
    >>> mesh.fsdp, mesh["fsdp"], dict(mesh)
    (1, 1, {'data': 0, 'fsdp': 1})
    """

    def __getitem__(self, name: str) -> Any:
        if name not in {field.name for field in dataclasses.fields(self)}:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(field.name for field in dataclasses.fields(self)))

    def __len__(self) -> int:
        return len(dataclasses.fields(self))
