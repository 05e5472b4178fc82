"""How a network of a user is called: with what its signature takes."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from score_sde.errors import UserError
from score_sde.typing import Labels


class Takes(NamedTuple):
    """What a call of a network takes besides its first argument, the data."""

    condition: bool  # a second argument, the noise
    names: frozenset[str]  # keyword arguments
    needs_label: bool  # whether there is no call without classes

    @classmethod
    def of(cls, call: Callable[..., Any]) -> "Takes":
        """The arguments in the signature of a function or of a bound method."""
        parameters = inspect.signature(call).parameters
        places = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        label = parameters.get("label")
        return cls(
            len(places) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters.values()),
            frozenset(p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)),
            label is not None and label.default is label.empty,
        )

    @classmethod
    def of_class(cls, module: type) -> "Takes":
        """The arguments with which the objects of a class are called."""
        call: Any = module.__call__
        return cls.of(functools.partial(call, None))

    def keywords(self, label: Labels | None, *, train: bool, **more: Any) -> Mapping[str, Any]:
        """The keyword arguments of a call: whether it trains, and the class where there is one.

        ``train`` and ``training`` say so, and ``deterministic`` says the opposite.

        Raises:
            UserError: If there is a class and the network takes none, or none and the network needs one.
        """
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
        if label is not None:
            known["label"] = label
        return {name: value for name, value in known.items() if name in self.names}
