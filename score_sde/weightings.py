r"""The weights of the denoising loss at the noise levels.

A weighting is the ``lambda(t)`` of ``lambda(t) |score + z / s|^2`` (Song et al. 2021, eq. 7). In noise space the error
``|n - z|^2`` of the prediction ``n = -s score`` thus has the weight ``w = lambda / s^2``. Weights of other errors
differ by the factors of

    |D - x_0|^2 = |n - z|^2 / snr,      |v - v*|^2 = |n - z|^2 / m^2  (if m^2 + s^2 = 1),
    |u - u*|^2 = (g^2 / (2 s))^2 |n - z|^2,

with the denoiser ``D``, the velocity ``v = m z - s x_0``, the velocity ``u = m' x_0 + s' z`` of the path, and
``snr = m^2 / s^2``.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from score_sde.arguments import Checked, not_fulfilled
from score_sde.errors import UserError, unknown
from score_sde.fields import DEFAULTS
from score_sde.outside.parts import Part, Registry
from score_sde.processes import Process
from score_sde.sdes import SDE
from score_sde.typing import Number, Time, Times, component

Weighting: TypeAlias = Callable[[Process, Times], Times]  #: the weight ``lambda(t)`` of a process at each time


def variance_weighting(process: Process, t: Time) -> Time:
    """``w = 1``: every noise level counts the same in noise space; best for samples."""
    return process.marginal(t).std ** 2


def likelihood_weighting(process: Process, t: Time) -> Time:
    """``lambda = g^2``: the loss bounds the negative log-likelihood (Song et al. 2021, arXiv 2101.09258, theorem 1)."""
    return _diffusion(process, "likelihood", t) ** 2


def flow_weighting(process: Process, t: Time) -> Time:
    """``w = (g^2 / (2 s))^2``: the error of the velocity of the path, as in flow matching (Lipman et al. 2022).

    >>> from score_sde.sdes import RectifiedFlow
    >>> t = jnp.array([0.25, 0.5])
    >>> w = flow_weighting(RectifiedFlow(), t) / RectifiedFlow().marginal(t).std ** 2
    >>> [round(float(value), 2) for value in w]  # 1 / m^2
    [1.78, 3.99]
    """
    return (0.5 * _diffusion(process, "flow", t) ** 2) ** 2


@component
class EDMWeighting(Checked):
    r"""``w = (sigma^2 + d^2) / d^2`` with ``sigma = s / m``, the data's std ``d`` (Karras et al. 2022, table 1).

    On the denoiser it is ``(sigma^2 + d^2) / (sigma d)^2``, under which an untrained network of EDM's parameterization
    has the same loss at every level, and the best one of data N(0, d^2) too: 1 per dimension.

    Attributes:
        data_std: The standard deviation ``d``.
    """

    data_std: Number = DEFAULTS.parameterization.data_std

    def problems(self) -> Iterator[str]:
        """The sentence about a number that is no standard deviation."""
        yield from not_fulfilled("data_std", self.data_std, lambda std: std > 0.0, "a number above 0")

    def __call__(self, process: Process, t: Time) -> Time:
        """``lambda = s^2 w``."""
        mean_coeff, std = process.marginal(t)
        return std**2 * (1.0 + (std / (mean_coeff * self.data_std)) ** 2)


@component
class MinSNRWeighting(Checked):
    r"""``w = min(1, gamma / snr)`` (Hang et al. 2023, arXiv 2303.09556).

    The paper's weights ``min(snr, gamma)`` of the denoiser, ``min(snr, gamma) / snr`` of the noise and
    ``min(snr, gamma) / (snr + 1)`` of ``v`` are this one loss.

    Attributes:
        gamma: The signal-to-noise ratio from which on data count no more.
    """

    gamma: Number = DEFAULTS.objective.min_snr_gamma

    def problems(self) -> Iterator[str]:
        """The sentence about a ratio that is none."""
        yield from not_fulfilled("gamma", self.gamma, lambda gamma: gamma > 0.0, "a number above 0")

    def __call__(self, process: Process, t: Time) -> Time:
        """``lambda = s^2 w``."""
        mean_coeff, std = process.marginal(t)
        return std**2 * jnp.minimum(1.0, self.gamma * (std / mean_coeff) ** 2)


@component
class P2Weighting(Checked):
    r"""``w = 1 / (k + snr)^gamma`` (Choi et al. 2022, arXiv 2204.00227, eq. 8).

    Attributes:
        k: Keeps the weight finite where the noise is all, 1 in the paper.
        gamma: How much less the small noise counts, 1 or 0.5 in the paper.
    """

    k: Number = DEFAULTS.objective.p2_k
    gamma: Number = DEFAULTS.objective.p2_gamma

    def problems(self) -> Iterator[str]:
        """Sentences about numbers that make no weight."""
        yield from not_fulfilled("k", self.k, lambda k: k > 0.0, "a number above 0")
        yield from not_fulfilled("gamma", self.gamma, lambda gamma: gamma >= 0.0, "0 or more")

    def __call__(self, process: Process, t: Time) -> Time:
        """``lambda = s^2 w``."""
        return process.marginal(t).std ** 2 * (self.k + jnp.exp(process.log_snr(t))) ** -self.gamma


@component
class SigmoidWeighting(Checked):
    r"""``lambda = g^2 sigmoid(bias - log snr)`` (Kingma & Gao 2023, arXiv 2303.00848, section 4).

    The weight of the likelihood, less where the noise is too small to be seen. As a weighted integral over the log-SNR
    the loss does not depend on the schedule but for its ends.

    Attributes:
        bias: The log-SNR at which half is left.
    """

    bias: Number = DEFAULTS.objective.sigmoid_bias

    def __call__(self, process: Process, t: Time) -> Time:
        """``lambda``."""
        return _diffusion(process, "sigmoid", t) ** 2 * jax.nn.sigmoid(self.bias - process.log_snr(t))


def _diffusion(process: Process, name: str, t: Time) -> Time:
    """``g(t)``, of an SDE."""
    if not isinstance(process, SDE):
        raise UserError(
            f"The weighting '{name}' is by the diffusion g of an SDE, and a chain has none; expected variance, "
            "min_snr, p2 or edm."
        )
    return process.diffusion(t)


class _Kind(NamedTuple):
    """How a weighting is made."""

    make: Any  # a class, a function, or a part of the user's own
    fields: Mapping[str, str] = MappingProxyType({})  # from its attributes to fields of the configuration
    of_sde: bool = False  # by the diffusion g, which a chain lacks


#: The weightings by name.
WEIGHTINGS: Mapping[str, _Kind] = Registry(
    "objective.weighting",
    {
        "variance": _Kind(lambda: variance_weighting),
        "likelihood": _Kind(lambda: likelihood_weighting, of_sde=True),
        "flow": _Kind(lambda: flow_weighting, of_sde=True),
        "edm": _Kind(EDMWeighting, {"data_std": "data_std"}),
        "min_snr": _Kind(MinSNRWeighting, {"gamma": "min_snr_gamma"}),
        "p2": _Kind(P2Weighting, {"k": "p2_k", "gamma": "p2_gamma"}),
        "sigmoid": _Kind(SigmoidWeighting, {"bias": "sigmoid_bias"}, of_sde=True),
    },
    adopt=_Kind,
)


def make_weighting(name: str, fields: Mapping[str, Any]) -> Weighting:
    """The weighting of a name, with its numbers from a mapping of fields.

    Raises:
        UserError: For an unknown name, and numbers that make no weight.

    >>> make_weighting("min_snr", {"min_snr_gamma": 1.0})
    MinSNRWeighting(gamma=1.0)
    """
    if name not in WEIGHTINGS:
        raise unknown("weighting", name, WEIGHTINGS)
    kind = WEIGHTINGS[name]
    if isinstance(kind.make, Part):
        return kind.make.bound(fields.get("options", {}))
    return kind.make(**{attribute: fields[field] for attribute, field in kind.fields.items()})
