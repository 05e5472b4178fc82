r"""Densities with score, marginals and probability flow in closed form, under any linear process.

Two of them have independent coordinates in a rotated frame, where the flow acts on each coordinate alone. It scales
a Gaussian coordinate by the ratio of the standard deviations. For any other coordinate it is the monotone map between
the marginals, ``F_s(x_s) = F_t(x_t)``, since points of a one-dimensional flow cannot overtake one another. The third,
:class:`GaussianMixture`, has any modes and no closed form of its flow.
"""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import Process
from score_sde.sdes import SDE, VE, VP, SubVP
from score_sde.typing import Batch, PRNGKey, Scalar, ScoreFn, Time, Times


class Case(NamedTuple):
    """A process and the end time of sampling."""

    name: str
    sde: SDE
    t_end: float


#: The processes: VE between noise levels 80 and 0.02, VP and sub-VP to their usual ends.
CASES = (
    Case("VE", VE(sigma_min=0.02, sigma_max=80.0), 0.0),
    Case("VP", VP(), 1e-3),
    Case("sub-VP", SubVP(), 1e-3),
)


class Problem(abc.ABC):
    """Data with independent coordinates in the frame of ``basis``, whose columns are the axes."""

    basis: np.ndarray

    @abc.abstractmethod
    def score_in_frame(self, y: Batch, mean_coeff: Times, std: Times) -> Batch:
        """The score of the marginal, in the frame."""

    @abc.abstractmethod
    def flow_in_frame(self, y: Batch, process: Process, t: Scalar, s: Scalar) -> Batch:
        """The map of the probability flow from ``t`` to ``s``, in the frame."""

    def score(self, process: Process) -> ScoreFn:
        """The score of the marginals of a process started at these data."""

        def score_fn(x: Batch, t: Times, /) -> Batch:
            return self.score_in_frame(x @ self.basis, *process.marginal(t)) @ self.basis.T

        return score_fn

    def flow(self, process: Process, x: Batch, t: Scalar, s: Scalar) -> Batch:
        """The map of the probability flow from time ``t`` to time ``s``."""
        return self.flow_in_frame(x @ self.basis, process, t, s) @ self.basis.T


class CorrelatedGaussian(Problem):
    """``N(0, C)``, by default in 16 dimensions, with ``C_ij = 0.25 * 0.8^|i - j|``."""

    def __init__(self, dim: int = 16) -> None:
        """Diagonalize the covariance."""
        index = np.arange(dim)
        self.variances, self.basis = np.linalg.eigh(0.25 * 0.8 ** np.abs(index[:, None] - index[None]))

    def score_in_frame(self, y: Batch, mean_coeff: Times, std: Times) -> Batch:
        """``-y / (m^2 w + s^2)``."""
        return -y / ((mean_coeff**2)[:, None] * self.variances[None] + (std**2)[:, None])

    def marginal_variances(self, process: Process, t: Scalar) -> Array:
        """``m^2 w + s^2``, along the axes."""
        mean_coeff, std = process.marginal(t)
        return mean_coeff**2 * self.variances + std**2

    def flow_in_frame(self, y: Batch, process: Process, t: Scalar, s: Scalar) -> Batch:
        """Each axis is scaled by the ratio of the standard deviations."""
        gain = jnp.sqrt(self.marginal_variances(process, s) / self.marginal_variances(process, t))
        return y * gain[None]


class RotatedMixtures(Problem):
    """In 8 dimensions, each axis of a rotated frame with its own mixture of three Gaussians: up to 3^8 modes."""

    def __init__(self) -> None:
        """Draw weights, means and standard deviations, and a frame."""
        rng = np.random.RandomState(0)
        shape = (8, 3)
        self.weights = rng.dirichlet(np.full(3, 4.0), 8)
        self.means = np.linspace(-1.0, 1.0, 3)[None] + 0.2 * rng.randn(*shape)
        self.stds = 0.2 + 0.2 * rng.rand(*shape)
        self.basis = np.linalg.qr(rng.randn(8, 8))[0]

    def score_in_frame(self, y: Batch, mean_coeff: Times, std: Times) -> Batch:
        """The mean of the component scores, weighted by responsibilities."""
        m, s = mean_coeff[:, None, None], std[:, None, None]
        variances = m**2 * self.stds[None] ** 2 + s**2
        offsets = m * self.means[None] - y[..., None]
        logits = np.log(self.weights)[None] - 0.5 * offsets**2 / variances - 0.5 * jnp.log(variances)
        return jnp.sum(jax.nn.softmax(logits, axis=-1) * offsets / variances, axis=-1)

    def flow_in_frame(self, y: Batch, process: Process, t: Scalar, s: Scalar) -> Batch:
        """Bisection on the distribution functions, using the smaller tail."""
        below, above = self._tails(y, process, t)
        lower = below < above

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            left, right = bounds
            middle = 0.5 * (left + right)
            now_below, now_above = self._tails(middle, process, s)
            too_far = jnp.where(lower, now_below > below, now_above < above)
            return jnp.where(too_far, left, middle), jnp.where(too_far, middle, right)

        reach = 20.0 * (jnp.abs(y).max() + 1.0)
        left, right = jax.lax.fori_loop(0, 80, halve, (jnp.full_like(y, -reach), jnp.full_like(y, reach)))
        return 0.5 * (left + right)

    def _tails(self, y: Batch, process: Process, t: Scalar) -> tuple[Batch, Batch]:
        """The probabilities below and above each coordinate."""
        m, s = process.marginal(t)
        z = (y[..., None] - m * self.means[None]) / jnp.sqrt(m**2 * self.stds[None] ** 2 + s**2)
        below, above = jax.scipy.special.ndtr(z), jax.scipy.special.ndtr(-z)
        return jnp.sum(self.weights[None] * below, axis=-1), jnp.sum(self.weights[None] * above, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GaussianMixture:
    """Data from a mixture of isotropic Gaussians, which stay one under every process.

    Attributes:
        weights: Weights of the components, with sum 1.
        means: Their means, a row for each.
        stds: Their standard deviations.

    >>> data = GaussianMixture(weights=np.array([0.2, 0.8]), means=np.array([[-1.0], [1.0]]), stds=np.full(2, 0.1))
    >>> x, t = jnp.array([[-1.0]]), jnp.zeros(1)
    >>> round(float(data.log_density(VP(), x, t)[0]), 3)  # log 0.2 N(-1; -1, 0.01)
    -0.226
    """

    weights: Float[np.ndarray, " components"]
    means: Float[np.ndarray, "components d"]
    stds: Float[np.ndarray, " components"]

    def sample(self, key: PRNGKey, n: int) -> Batch:
        """Draw ``n`` examples."""
        component_key, noise_key = jax.random.split(key)
        component = jax.random.categorical(component_key, jnp.log(jnp.asarray(self.weights, float)), shape=(n,))
        noise = jax.random.normal(noise_key, (n, self.means.shape[1]))
        return jnp.asarray(self.means, float)[component] + jnp.asarray(self.stds, float)[component, None] * noise

    def log_density(self, process: Process, x: Batch, t: Times) -> Times:
        """``log p_t(x)`` of the marginals of a process that starts at these data."""
        return jax.nn.logsumexp(self._terms(process, x, t)[0], axis=1)

    def score(self, process: Process) -> ScoreFn:
        """The score of these marginals: the components' own, weighted by their responsibilities."""

        def score_fn(x: Batch, t: Times, /) -> Batch:
            logs, offsets, variances = self._terms(process, x, t)
            return -jnp.einsum("nk,nkd->nd", jax.nn.softmax(logs, axis=1) / variances, offsets)

        return score_fn

    def _terms(self, process: Process, x: Batch, t: Time) -> tuple[Array, Array, Array]:
        """Weighted log-densities of the components, offsets from their means, and their variances."""
        m, s = (c[:, None] for c in process.marginal(t))
        variances = (m * jnp.asarray(self.stds, x.dtype)[None]) ** 2 + s**2
        offsets = x[:, None] - m[..., None] * jnp.asarray(self.means, x.dtype)[None]
        normal = jnp.sum(offsets**2, axis=2) / variances + x.shape[1] * jnp.log(2.0 * jnp.pi * variances)
        return jnp.log(jnp.asarray(self.weights, x.dtype))[None] - 0.5 * normal, offsets, variances
