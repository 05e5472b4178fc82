"""Networks of Gaussian data that have learned the flow exactly, as a change of parameters tells."""

import itertools

import jax.numpy as jnp

from score_sde.typing import TimeSamples


class FixedTimes:
    """The same time for every example."""

    def __init__(self, t):
        self.t = t

    def sample(self, key, n):
        return TimeSamples(jnp.full(n, self.t), jnp.ones(n))


def corners(std):
    """Pairs of data and noise, (4, 1) each, with the moments of N(0, std^2) and N(0, 1) up to the second."""
    return jnp.array([[std], [std], [-std], [-std]]), jnp.array([[1.0], [-1.0], [1.0], [-1.0]])


class Ends:
    """The noise whose denoised sample is the end of the flow from N(0, std^2), times ``1 + a tanh(s / m)``."""

    def __init__(self, process, std):
        self.process, self.std = process, std

    def init(self, key, shape):
        return {"a": jnp.zeros(())}

    def apply(self, params, x, condition, *, label=None, key=None):
        m, s = (part[:, None] for part in self.process.marginal(condition / 999.0))
        total = jnp.sqrt((m * self.std) ** 2 + s**2)
        exact = x * s / (total * (total + m * self.std))  # (x - m f) / s with f = x std / total
        return exact - params["a"] * jnp.tanh(s / m) * m / s * x * self.std / total


class Averages:
    """The average velocity of the straight path from N(0, std^2), times ``1 + a``."""

    def __init__(self, path, std):
        self.path, self.std = path, std

    def init(self, key, shape):
        return {"a": jnp.zeros(())}

    def apply(self, params, x, condition, *, label=None, key=None, span=None):
        t = condition / 999.0
        s = t if span is None else t - span
        kept = 1.0 - self.path.end

        def spread(t):
            return jnp.sqrt(((1.0 - kept * t) * self.std) ** 2 + t**2)

        # (spread(t)^2 - spread(s)^2) / (t - s) is a polynomial, so that s = t is no special case.
        slope = -2.0 * kept * self.std**2 + (1.0 + (kept * self.std) ** 2) * (t + s)
        exact = slope / (spread(t) * (spread(t) + spread(s)))
        return (1.0 + params["a"]) * exact[:, None] * x


class Contracting:
    """The noise prediction for N(0, std^2) whose steps of DDIM contract ``x / m`` by factors, one for each time."""

    def __init__(self, process, std, times):
        self.process, self.std, self.times = process, std, times

    def init(self, key, shape):
        return self.of(1)

    def of(self, number):
        """The parameters under which one step contracts as that many steps of the exact score do from there on."""
        ratios = [self._ratio(time) for time in self.times]
        exact = [1.0 - (a - b) * a / (self.std**2 + a**2) for a, b in itertools.pairwise(ratios)]
        slopes = []
        for place, ratio in enumerate(ratios[:-1]):
            end = min(place + number, len(ratios) - 1)
            factor = jnp.prod(jnp.stack(exact[place:end]))
            slopes.append((1.0 - factor) / (ratio - ratios[end]))
        return {"factors": jnp.stack(slopes)}

    def _ratio(self, t):
        m, s = self.process.marginal(t)
        return s / m

    def apply(self, params, x, condition, *, label=None, key=None):
        t = condition / 999.0
        nearest = jnp.abs(self.times[None, :-1] - t[:, None]).argmin(axis=1)
        m, _ = self.process.marginal(t)
        return (params["factors"][nearest] / m)[:, None] * x
