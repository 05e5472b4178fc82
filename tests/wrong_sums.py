"""Programs that some versions of XLA compile wrong for CPUs, each with its error.

``python -m tests.wrong_sums`` prints the errors without the protection of :mod:`score_sde.compiler`, and
``python -m tests.wrong_sums protected`` with it, for more programs. One of those ends an unprotected process.
"""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import xla_bridge

ROWS = (4096, 40_000, 65_536)


def relative(found, expected):
    """The largest error, relative to the largest of the expected values."""
    return float(np.max(np.abs(np.asarray(found, np.float64) - expected)) / np.max(np.abs(expected)))


def sums_of_products():
    """Two functions of different arguments in one sum: all of it, and one for every row."""
    for name in ("expm1", "log1p", "log"):
        ours, exact = getattr(jnp, name), getattr(np, name)
        for rows in ROWS:
            t = np.linspace(0.1, 2.0, rows, dtype=np.float32)
            wide = t.astype(np.float64)
            whole = jax.jit(lambda t, f=ours: jnp.sum(f(t) * f(2.0 * t)))(t)
            yield f"{name} of {rows} rows", relative(whole, np.sum(exact(wide) * exact(2.0 * wide)))
            each = jax.jit(lambda t, f=ours: f(2.0 * t) * jnp.sum(jnp.stack([t, t], 1) * f(t)[:, None], axis=1))(t)
            yield f"{name} by {rows} rows", relative(each, exact(2.0 * wide) * 2.0 * wide * exact(wide))


def products_with_a_matrix():
    rows = np.random.RandomState(0).randn(40_000, 3).astype(np.float32)
    matrix = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    found = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    yield "squares of products", relative(found, np.sum((rows.astype(np.float64) @ matrix.T) ** 2, axis=1))


def seven_axes():
    a, b = np.random.RandomState(0).randn(2, 3, 1, 2, 2, 8, 8, 8).astype(np.float32)
    found = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b)
    yield "seven axes", relative(found, np.sum(a.astype(np.float64) * b, axis=3))


def library():
    """The README's example, compiled by its user: many examples are what few are, and a density is the exact one."""
    from score_sde import VP, likelihood, sampling, solvers

    sde = VP(beta_min=0.1, beta_max=20.0)

    def score(x, t):
        m, s = sde.marginal(t)
        return -x / (m**2 * 0.25 + s**2)[:, None]

    def draw(count):
        keys = sampling.sample_keys(jax.random.key(0), 0, count)
        start = sampling.prior_samples(keys, sde, (2,))
        times = sampling.uniform_times(20)
        return sampling.integrate(keys, solvers.EulerMaruyama(), sde.reverse(score), start, times).x

    few, many = (jax.jit(lambda n=n: draw(n))() for n in (64, 40_000))
    yield "samples", relative(many[:64], np.asarray(few, np.float64))
    x = jnp.zeros((8192, 2))
    logp = jax.jit(lambda x: likelihood.log_likelihood(jax.random.key(1), sde, score, x, num_probes=None).logp)(x)
    yield "likelihood", relative(logp, np.full(len(x), -np.log(2.0 * np.pi * 0.25)))


def main(protected):
    if protected:
        import score_sde.sampling  # noqa: F401  # after JAX, as in a user's program
    facts = {"flags": os.environ.get("XLA_FLAGS", ""), "started": xla_bridge.backends_are_initialized()}
    parts = [sums_of_products, products_with_a_matrix, *([seven_axes, library] if protected else [])]
    print(json.dumps({**facts, "errors": {name: error for part in parts for name, error in part()}}))


if __name__ == "__main__":
    main(protected="protected" in sys.argv[1:])
