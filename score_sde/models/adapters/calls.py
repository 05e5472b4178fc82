"""How a network of a user is called: with what its signature takes."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from score_sde.errors import UserError

# What a network may be told besides data, noise and class.
_TOLD = {
    "span": "the time between two times, and is asked for average velocities",
    "augmentations": "how its images were changed, and is trained on changed ones",
}


class Takes(NamedTuple):
    """What a call of a network takes besides its first argument, the data."""

    condition: bool  # a second argument, the noise
    names: frozenset[str]  # keyword arguments
    needs_label: bool  # whether there is no call without classes
    name: str  # of the network, for messages

    @classmethod
    def of(cls, call: Callable[..., Any], name: str = "The network") -> "Takes":
        """The arguments in the signature of a function or of a bound method."""
        parameters = inspect.signature(call).parameters
        places = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        label = parameters.get("label")
        return cls(
            len(places) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters.values()),
            frozenset(p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)),
            label is not None and label.default is label.empty,
            name,
        )

    @classmethod
    def of_class(cls, module: type) -> "Takes":
        """The arguments with which the objects of a class are called."""
        call: Any = module.__call__
        return cls.of(functools.partial(call, None), module.__name__)

    def keywords(
        self, label: Any, *, train: bool, told: Mapping[str, Any] = MappingProxyType({}), **more: Any
    ) -> Mapping[str, Any]:
        """The keyword arguments of a call, of an example or of a batch: whether it trains, and the class.

        ``train`` and ``training`` say so, and ``deterministic`` says the opposite. What it is ``told`` besides, such as
        a span, is ``None`` where there is none.

        Raises:
            UserError: If the network takes none of what it is told, or needs a class where there is none.
        """
        given = {name: value for name, value in told.items() if value is not None}
        for name in given.keys() - self.names:
            raise UserError(f"{self.name} takes no argument '{name}', {_TOLD[name]}; expected a network that takes it.")
        if label is not None and "label" not in self.names:
            raise UserError(
                "The network takes no argument 'label', and config.conditioning.classes is True; expected a network of "
                "x, condition and label, or config.conditioning.classes=False."
            )
        if label is None and self.needs_label:
            raise UserError(
                "The network needs an argument 'label', and the run has no classes; expected label=None in its "
                "signature, or config.conditioning.classes=True."
            )
        known = {"train": train, "training": train, "deterministic": not train, **more}
        known |= given if label is None else {**given, "label": label}
        return {name: value for name, value in known.items() if name in self.names}
