"""Densities whose marginals, scores and probability-flow maps are known in closed form, for any linear SDE."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.sdes import VE, VP, SubVP

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(sigma_max=10.0)}


class Gaussian(NamedTuple):
    """N(mean, covariance) on R^d, kept in the eigenbasis of the covariance, where every process acts by axes."""

    mean: np.ndarray
    basis: np.ndarray  # columns are eigenvectors
    eigenvalues: np.ndarray

    @classmethod
    def correlated(cls, dim=4, *, correlation=0.8, std=0.5, seed=0):
        """The AR(1) covariance std^2 correlation^|i - j| with a random mean."""
        return cls.field((dim,), correlation=correlation, std=std, seed=seed)

    @classmethod
    def field(cls, shape, *, correlation=0.8, std=0.5, seed=0):
        """A field over the places of an array, AR(1) along each of its axes, flattened."""
        places = np.argwhere(np.ones(shape))
        covariance = std**2 * correlation ** np.abs(places[:, None] - places[None]).sum(axis=-1)
        eigenvalues, basis = np.linalg.eigh(covariance)
        return cls(0.3 * np.random.RandomState(seed).randn(len(places)), basis, eigenvalues)

    @classmethod
    def isotropic(cls, dim, std):
        return cls(np.zeros(dim), np.eye(dim), np.full(dim, std**2))

    def sample(self, n, seed=0):
        z = np.random.RandomState(seed).randn(n, len(self.mean))
        return self.mean + (z * np.sqrt(self.eigenvalues)) @ self.basis.T

    def variances(self, sde, t):
        m, s = sde.marginal(t)
        m, s = m[:, None], s[:, None]
        return m, m**2 * jnp.asarray(self.eigenvalues)[None] + s**2

    def score(self, sde):
        def score_fn(x, t):
            m, variance = self.variances(sde, t)
            coordinates = (x - m * self.mean[None]) @ self.basis
            return -(coordinates / variance) @ self.basis.T

        return score_fn

    def logp(self, sde, t, x):
        m, variance = self.variances(sde, t)
        coordinates = (x - m * self.mean[None]) @ self.basis
        quadratic = jnp.sum(coordinates**2 / variance, axis=-1)
        return -0.5 * (quadratic + jnp.sum(jnp.log(2 * jnp.pi * variance), axis=-1))

    def flow(self, sde, x, t, s):
        """The exact probability-flow map from time t to time s."""
        t, s = jnp.asarray(t)[None], jnp.asarray(s)[None]
        (m0, v0), (m1, v1) = self.variances(sde, t), self.variances(sde, s)
        coordinates = (x - m0 * self.mean[None]) @ self.basis
        return m1 * self.mean[None] + (coordinates * jnp.sqrt(v1 / v0)) @ self.basis.T

    @property
    def covariance(self):
        return (self.basis * self.eigenvalues) @ self.basis.T


class Mixture(NamedTuple):
    """A mixture of isotropic Gaussians in R^d: its score is neither linear nor unimodal."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    @classmethod
    def three(cls):
        means = np.array([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]])
        return cls(np.array([0.5, 0.3, 0.2]), means, np.array([0.2, 0.3, 0.15]))

    def logp(self, sde, t, x):
        m, s = sde.marginal(t)
        variance = m[:, None] ** 2 * self.stds[None] ** 2 + s[:, None] ** 2  # (batch, component)
        offsets = x[:, None, :] - m[:, None, None] * self.means[None]
        dim = x.shape[-1]
        logs = -0.5 * (jnp.sum(offsets**2, axis=-1) / variance + dim * jnp.log(2 * jnp.pi * variance))
        return jax.scipy.special.logsumexp(logs + jnp.log(self.weights)[None], axis=1)

    def score(self, sde):
        def single(x, t):
            return self.logp(sde, t[None], x[None])[0]

        return lambda x, t: jax.vmap(jax.grad(single))(x, t)

    def sample(self, n, seed=0):
        rng = np.random.RandomState(seed)
        which = rng.choice(len(self.weights), n, p=self.weights)
        return self.means[which] + self.stds[which, None] * rng.randn(n, self.means.shape[1])
