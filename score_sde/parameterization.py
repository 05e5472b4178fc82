r"""The prediction targets of networks, and the conversion of their outputs to scores.

With ``x_t = m x_0 + s z`` the posterior means of noise, data and velocity and the score determine one another
(Tweedie's formula; Salimans & Ho 2022, arXiv 2202.00512, for ``v``):

    score = -E[z | x_t] / s,      E[x_0 | x_t] = (x_t + s^2 score) / m,      v = m z - s x_0.

A parameterization also fixes how the network sees its arguments: the inputs may be scaled to unit variance, and the
noise level enters in one of the ways of :data:`CONDITIONS`.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.arguments import of_examples, rows, score_at
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.labels import unconditioned
from score_sde.processes import Process
from score_sde.quantization import Quantization
from score_sde.sdes.base import SDE
from score_sde.typing import (
    Batch,
    Labels,
    Network,
    Number,
    Output,
    Params,
    PRNGKey,
    ScoreFn,
    Times,
    component,
    expand_like,
    static,
)

#: How a network is told the noise level, as functions of SDE, time and number of levels ``N``. ``time`` and
#: ``log_time`` are ``999 t`` (DDPM++) and its logarithm; ``log_noise`` is ``log(s / m)``, for the VE SDE the
#: ``log sigma`` of NCSN++. Networks trained on ``N`` discrete levels want their number: ``level`` counts as DDPM
#: does, from the least noise at ``t = 1 / N``; ``descending_level`` as NCSN does, from the most noise at ``t = 1``.
CONDITIONS: Mapping[str, Callable[[Process, Times, Number], Times]] = MappingProxyType(
    {
        "time": lambda process, t, n: 999.0 * t,
        "log_time": lambda process, t, n: jnp.log(999.0 * t),
        "log_noise": lambda process, t, n: -0.5 * process.log_snr(t),
        "level": lambda process, t, n: jnp.maximum(n * t - 1.0, 0.0),
        "descending_level": lambda process, t, n: jnp.round((1.0 - t) * (n - 1.0)),
    }
)


#: The conditions that are level numbers, and whether they are rounded, so that times between two levels are unknown.
LEVEL_CONDITIONS: Mapping[str, bool] = MappingProxyType({"level": False, "descending_level": True})


@component
class Parameterization(abc.ABC):
    """From network output to noise, and so to score; each subclass defines :meth:`noise`.

    Attributes:
        data_std: Standard deviation of the data, used to scale inputs.
        scale_input: Divide the inputs by ``sqrt(m^2 data_std^2 + s^2)``, as the VE SDE with its large noise needs.
        condition_on: The noise condition, a name in :data:`CONDITIONS`.
        num_scales: Number of noise levels of a network that is conditioned on levels.
    """

    fixed: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # fields that the subclass fixes
    of_sde: ClassVar[bool] = False  # whether it needs drift and diffusion, which a chain lacks
    of_levels: ClassVar[bool] = False  # whether the output has a number for every gray level of every value
    keeps_data: ClassVar[bool] = True  # whether the denoised sample of data is the data, whatever the network

    data_std: Number = DEFAULTS.parameterization.data_std
    scale_input: bool = static(default=DEFAULTS.parameterization.scale_input)
    condition_on: str = static(default=DEFAULTS.parameterization.condition_on)
    num_scales: Number = DEFAULTS.parameterization.num_scales

    @abc.abstractmethod
    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """The predicted noise ``E[z | x_t]`` that the network output represents."""

    def inputs(self, process: Process, x: Batch, t: Times) -> tuple[Batch, Times]:
        """The two arguments of the network: (scaled) noisy data and noise condition."""
        mean_coeff, std = process.marginal(t)
        if self.scale_input:
            x = x / expand_like(jnp.sqrt((mean_coeff * self.data_std) ** 2 + std**2), x)
        return x, CONDITIONS[self.condition_on](process, t, self.num_scales)


@component
class NoisePrediction(Parameterization):
    """The output is the noise ``z`` (Ho et al. 2020, arXiv 2006.11239, eq. 14); the choice of DDPM++."""

    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """The output itself."""
        return output


@component
class ScorePrediction(Parameterization):
    """The output is the score, or the score times ``s`` as in NCSNv2 and NCSN++ (Song & Ermon 2020, technique 3).

    Attributes:
        scale_by_sigma: Divide the output by ``s``.
    """

    scale_by_sigma: bool = static(default=DEFAULTS.parameterization.scale_by_sigma)

    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """Minus the output, times ``s`` if the output is the score itself."""
        return -output if self.scale_by_sigma else -expand_like(process.marginal(t).std, x) * output


@component
class DataPrediction(Parameterization):
    """The output is the data ``x_0``; the noise loses digits where ``s`` is small, so prefer others for likelihoods."""

    keeps_data: ClassVar[bool] = False

    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """``(x - m output) / s``."""
        mean_coeff, std = process.marginal(t)
        return (x - expand_like(mean_coeff, x) * output) / expand_like(std, x)


@component
class VPrediction(Parameterization):
    """The output is the velocity ``v = m z - s x_0`` (Salimans & Ho 2022, appendix D), for any ``m`` and ``s``."""

    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """``(m v + s x) / (m^2 + s^2)``, which solves ``x = m x_0 + s z`` and ``v = m z - s x_0``."""
        mean_coeff, std = process.marginal(t)
        total = expand_like(mean_coeff**2 + std**2, x)
        return (expand_like(mean_coeff, x) * output + expand_like(std, x) * x) / total


@component
class VelocityPrediction(Parameterization):
    r"""The output is the velocity of the path, ``u = m' x_0 + s' z`` (Lipman et al. 2022, arXiv 2210.02747).

    With ``m' = f m`` and ``s' = f s + g^2 / (2 s)`` it is ``f x_t + g^2 / (2 s) z``: the drift of the probability flow.
    """

    of_sde: ClassVar[bool] = True

    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """``2 s (u - f x) / g^2``.

        Raises:
            UserError: If the process is a chain, which has no velocity.
        """
        if not isinstance(process, SDE):
            raise UserError(
                "A chain has no velocity, which config.parameterization.output=velocity predicts; expected "
                "config.sde.schedule=continuous, or another output, such as v."
            )
        std, drift = process.marginal(t).std, process.drift_coeff(t)
        factor = 2.0 * std / process.diffusion(t) ** 2
        return expand_like(factor, x) * (output - expand_like(drift, x) * x)


@component
class EDMPrediction(Parameterization):
    r"""The preconditioning of Karras et al. 2022 (arXiv 2206.00364, table 1), for any ``m`` and ``s``.

    With ``sigma = s / m`` and data std ``d``, the denoiser of ``x / m`` is ``c_skip x / m + c_out F`` where
    ``c_skip = d^2 / (sigma^2 + d^2)`` and ``c_out = sigma d / sqrt(sigma^2 + d^2)``. In noise space nothing is
    divided by a small number: ``z = (sigma x/m / (sigma^2 + d^2)) - d F / sqrt(sigma^2 + d^2)``.
    """

    fixed: ClassVar[Mapping[str, Any]] = MappingProxyType({"scale_input": True, "condition_on": "log_noise"})

    scale_input: bool = static(default=True)
    condition_on: str = static(default="log_noise")

    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """The formula above, with numerator and denominator multiplied by ``m`` so that it holds as ``m -> 0``."""
        mean_coeff, std = process.marginal(t)
        total = std**2 + (mean_coeff * self.data_std) ** 2
        skip, out = std / total, mean_coeff * self.data_std / jnp.sqrt(total)
        return expand_like(skip, x) * x - expand_like(out, x) * output


@component
class LevelPrediction(Parameterization):
    r"""The output is a logit for every gray level of every value, of which Bayes' rule makes the noise.

    Let ``c_k`` be the middles of the bins of the levels. The network says what the other values tell about a value, the
    logits ``l_k``; what the noisy value itself tells is known, ``N(x; m c_k, s^2)``, and is not learned:

        E[z | x_t] = sum_k p_k (x - m c_k) / s,      p = softmax_k(l_k - (x - m c_k)^2 / (2 s^2)).

    A network that starts at zero starts at the posterior of independent uniform levels, whose bound
    (:func:`~score_sde.likelihood.level_bound`) is ``log2 K`` bits per dimension. Where the noise is smaller than a bin
    the prediction is exact whatever the network says. Dieleman et al. 2022 (arXiv 2211.15089) interpolate scores by
    logits too, but leave all of the posterior to the network.

    Attributes:
        quantization: The gray levels.
    """

    of_levels: ClassVar[bool] = True
    keeps_data: ClassVar[bool] = False  # but for levels themselves

    quantization: Quantization = Quantization()

    def noise(self, process: Process, output: Output, x: Batch, t: Times) -> Batch:
        """The formula above, for logits of shape ``(*x.shape, K)``.

        >>> from score_sde.sdes import VDM
        >>> binary, x, t = Quantization(num_grey_levels=2), jnp.array([[0.3]]), jnp.array([0.5])
        >>> noise = LevelPrediction(quantization=binary).noise(VDM(), jnp.array([[[0.0, 50.0]]]), x, t)
        >>> m, s = VDM().marginal(t)  # a network that is sure of the brighter level, at 0.5
        >>> bool(abs(noise[0, 0] - (0.3 - 0.5 * m[0]) / s[0]) < 1e-6)
        True
        """
        mean_coeff, std = (expand_like(part, x)[..., None] for part in process.marginal(t))
        noises = (x[..., None] - mean_coeff * self.quantization.all_midpoints(x)) / std
        return jnp.sum(jax.nn.softmax(output - 0.5 * noises**2, axis=-1) * noises, axis=-1)


#: What a network predicts, by the names of configurations.
PARAMETERIZATIONS: Mapping[str, type[Parameterization]] = MappingProxyType(
    {
        "noise": NoisePrediction,
        "score": ScorePrediction,
        "data": DataPrediction,
        "v": VPrediction,
        "edm": EDMPrediction,
        "velocity": VelocityPrediction,
        "levels": LevelPrediction,
    }
)


def make_noise_fn(
    network: Network,
    parameterization: Parameterization,
    process: Process,
    params: Params,
    *,
    label: Labels | None = None,
    key: PRNGKey | None = None,
) -> "_Noise":
    """The noise prediction ``(x, t) -> E[z | x_t]``; a key switches dropout on, labels condition on classes.

    Labels may also come with the parameters, as :class:`score_sde.labels.Conditioned`.
    """
    params, known = unconditioned(params)
    return _Noise(network, parameterization, process, params, known if label is None else label, key)


def make_score_fn(
    network: Network,
    parameterization: Parameterization,
    process: Process,
    params: Params,
    *,
    label: Labels | None = None,
    key: PRNGKey | None = None,
) -> ScoreFn:
    """The score function ``(x, t) -> grad_x log p_t(x)`` of a network; arguments as in :func:`make_noise_fn`."""
    return _Score(make_noise_fn(network, parameterization, process, params, label=label, key=key))


@dataclasses.dataclass(frozen=True, eq=False)
class _Noise:
    """The noise prediction of a network, with a label for each example if it has classes."""

    network: Network
    parameterization: Parameterization
    process: Process
    params: Params
    label: Labels | None
    key: PRNGKey | None

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        given = {} if self.label is None else {"label": self.label}  # a network without classes need not accept it
        inputs = self.parameterization.inputs(self.process, x, t)
        output = self.network.apply(self.params, *inputs, key=self.key, **given)
        return self.parameterization.noise(self.process, output, x, t)

    def of_examples(self, indices: Array) -> "_Noise":
        return self if self.label is None else dataclasses.replace(self, label=rows(self.label, indices))


@dataclasses.dataclass(frozen=True, eq=False)
class _Score:
    """The score that belongs to a noise prediction."""

    noise: _Noise

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        return -self.noise(x, t) / expand_like(self.noise.process.marginal(t).std, x)

    def of_examples(self, indices: Array) -> "_Score":
        return _Score(self.noise.of_examples(indices))


def thresholded(
    process: Process, score_fn: ScoreFn, *, low: Number, high: Number, quantile: Number | None = None
) -> ScoreFn:
    """The score whose denoised samples stay in the range ``[low, high]`` of the data.

    Static thresholding (``quantile=None``) clips them. Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487,
    section 2.3) clips at the quantile of the distances from the middle of the range, if it lies outside, and shrinks
    the sample into the range.

    Args:
        process: The forward process.
        score_fn: The score of its marginals.
        low: Least value of the data.
        high: Greatest value.
        quantile: Such as 0.995, over all values of an example.

    >>> from score_sde.sdes import VP
    >>> def score(x, t):  # of a point mass at 3
    ...     m, s = VP().marginal(t)
    ...     return (3.0 * m[:, None] - x) / s[:, None] ** 2
    >>> t = jnp.array([0.5])
    >>> clipped = thresholded(VP(), score, low=-1.0, high=1.0)
    >>> bool(jnp.allclose(denoise(VP(), clipped, jnp.zeros((1, 2)), t), 1.0, atol=1e-5))
    True
    """
    return _InRange(process, score_fn, low, high, quantile)


@dataclasses.dataclass(frozen=True, eq=False)
class _InRange:
    """A thresholded score."""

    process: Process
    score_fn: ScoreFn
    low: Number
    high: Number
    quantile: Number | None

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        middle, reach = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        mean_coeff, std = self.process.marginal(t)
        offset = denoise(self.process, self.score_fn, x, t) - middle
        if self.quantile is None:
            offset = jnp.clip(offset, -reach, reach)
        else:
            distances = jnp.quantile(jnp.abs(offset).reshape(x.shape[0], -1), self.quantile, axis=1)
            bound = expand_like(jnp.maximum(distances, reach), x)
            offset = jnp.clip(offset, -bound, bound) * (reach / bound)
        return (expand_like(mean_coeff, x) * (middle + offset) - x) / expand_like(std**2, x)

    def of_examples(self, indices: Array) -> "_InRange":
        return dataclasses.replace(self, score_fn=of_examples(self.score_fn, indices))


#: The quantile of each kind of thresholding, as a function of the configured quantile.
THRESHOLDS: Mapping[str, Callable[[float], float | None]] = MappingProxyType(
    {"static": lambda quantile: None, "dynamic": lambda quantile: quantile}
)


def denoise(process: Process, score_fn: ScoreFn, x: Batch, t: Times) -> Batch:
    """The posterior mean ``E[x_0 | x_t] = (x + s^2 score) / m`` (Tweedie's formula)."""
    mean_coeff, std = process.marginal(t)
    return (x + expand_like(std**2, x) * score_at(score_fn, x, t)) / expand_like(mean_coeff, x)
