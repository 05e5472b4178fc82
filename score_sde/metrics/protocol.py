"""The protocol behind a metric's value, the value with its error, and comparisons under equal protocols."""

import dataclasses
import json
import math
from typing import Any, NamedTuple

from score_sde.errors import UserError, plural
from score_sde.files import parse_json, reason_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricProtocol:
    """Everything besides the model that determines a metric's value.

    >>> MetricProtocol(metric="frechet", num_samples=5000, reference_count=50000, seed=0, extractor="inception",
    ...                extractor_sha256="ab" * 32, reference_sha256="cd" * 32, shape=(32, 32, 3),
    ...                num_levels=256).describe()
    'frechet of 5000 samples, seed 0, 32x32x3 of 256 levels, to 50000 references cdcdcdcd, by inception abababab'
    """

    metric: str
    num_samples: int
    reference_count: int | None  # None where there is no reference, or its file does not state it
    seed: int
    extractor: str
    extractor_sha256: str
    reference_sha256: str | None
    shape: tuple[int, ...]  # of an example
    num_levels: int | None  # gray levels per channel; None for data that are not levels
    options: tuple[tuple[str, Any], ...] = ()  # the metric's own settings, such as ("k", 3)

    def describe(self) -> str:
        """The protocol in one line."""
        levels = "" if self.num_levels is None else f" of {self.num_levels} levels"
        parts = [
            f"{self.metric} of {self.num_samples} {plural(self.num_samples, 'sample')}",
            f"seed {self.seed}",
            f"{'x'.join(str(size) for size in self.shape)}{levels}",
        ]
        if self.reference_sha256 is not None:
            count = "" if self.reference_count is None else f"{self.reference_count} "
            parts.append(f"to {count}references {_short(self.reference_sha256)}")
        parts.append(f"by {self.extractor} {_short(self.extractor_sha256)}")
        parts += [f"{name} {value}" for name, value in self.options]
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One metric of one model.

    ``std_error`` is over fresh samples of the model with the reference held, as comparisons of two models need.
    ``interval`` is for the quantity named in ``details["interval_of"]``, which the metric estimates; for a biased
    metric, such as the Fréchet distance, it need not contain ``value``.
    """

    value: float
    std_error: float | None
    interval: tuple[float, float] | None
    protocol: MetricProtocol
    details: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON values

    def to_json(self) -> str:
        """The result as text that :meth:`from_json` reads.

        Raises:
            UserError: If a number is not finite, or a value is not JSON.
        """
        try:
            return json.dumps(dataclasses.asdict(self), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The result of {self.protocol.metric} cannot be written as JSON ({error}); expected finite numbers "
                "and text."
            ) from error

    @staticmethod
    def from_json(text: str) -> "MetricResult":
        """The result that :meth:`to_json` has written.

        Raises:
            UserError: For text that is not such a result, with the missing or unknown fields.
        """
        try:
            fields = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"A metric's result is not JSON ({reason_of(error)}); expected what to_json wrote."
            ) from error
        fields = dict(_fields(fields, MetricResult))
        protocol = dict(_fields(fields["protocol"], MetricProtocol))
        protocol["shape"] = tuple(protocol["shape"])
        protocol["options"] = tuple((name, value) for name, value in protocol["options"])
        fields["protocol"] = MetricProtocol(**protocol)
        if fields["interval"] is not None:
            fields["interval"] = tuple(fields["interval"])
        return MetricResult(**fields)


class Comparison(NamedTuple):
    """The excess of the first of two results over the second."""

    difference: float
    std_error: float | None  # None if either result has none


def compare(a: MetricResult, b: MetricResult) -> Comparison:
    """The difference ``a - b`` and its standard error, for models whose samples are independent.

    The protocols must agree except for the seed. The number of samples must agree too, since many metrics have a bias
    that depends on it, which nearly cancels for equal numbers.

    Raises:
        UserError: If the protocols differ, naming every differing field.
    """
    unlike = [
        f"{field.name} ({getattr(a.protocol, field.name)} and {getattr(b.protocol, field.name)})"
        for field in dataclasses.fields(MetricProtocol)
        if field.name != "seed" and getattr(a.protocol, field.name) != getattr(b.protocol, field.name)
    ]
    if unlike:
        raise UserError(
            f"Two results were measured differently: {', '.join(unlike)}. Expected the same protocol but for the seed; "
            "measure both models in one way."
        )
    errors = (a.std_error, b.std_error)
    joint = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    return Comparison(a.value - b.value, joint)


def _fields(found: Any, kind: type) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(found, dict) or set(found) != known:
        keys = set(found) if isinstance(found, dict) else set()
        raise UserError(
            f"A metric's result lacks {sorted(known - keys)} and has the unknown {sorted(keys - known)} of "
            f"{kind.__name__}; expected what to_json wrote; measure again with this version."
        )
    return found


def _short(digest: str) -> str:
    """The start of a digest; other words unchanged."""
    return digest[:8] if len(digest) == 64 else f"({digest})"
