"""The likelihood of a Gaussian field in three dimensions, from an array by ``score_sde.fit``, against its density.

    python experiments/likelihood/field.py

The field has 4 x 4 x 4 places, mean 10, standard deviation 3 and a correlation that falls by half from place to place
along every axis. A small network for volumes is trained on its draws. The differences are in nats per example, of other
draws, with the standard error over them.
"""

import argparse
import logging
import sys

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import jax
import numpy as np

import score_sde

SHAPE, MEAN, STD, CORRELATION = (4, 4, 4, 1), 10.0, 3.0, 0.5
PLACES = np.argwhere(np.ones(SHAPE))
COVARIANCE = STD**2 * CORRELATION ** np.abs(PLACES[:, None] - PLACES[None]).sum(axis=-1)


def draws(n: int, seed: int) -> np.ndarray:
    """Examples of the field."""
    flat = np.random.default_rng(seed).multivariate_normal(np.full(len(PLACES), MEAN), COVARIANCE, size=n)
    return flat.reshape(n, *SHAPE).astype(np.float32)


def log_density(x: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The density of a Gaussian field with this covariance, in nats."""
    away = x.reshape(len(x), -1) - MEAN
    quadratic = np.einsum("ni,ni->n", away, np.linalg.solve(covariance, away.T).T)
    return -0.5 * (quadratic + np.linalg.slogdet(2.0 * np.pi * covariance)[1])


def told(name: str, values: np.ndarray) -> None:
    """A mean, its standard error and the largest value."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    print(f"{name}: {values.mean():+.3f} ± {error:.3f}, largest {np.abs(values).max():.3f} nats")


def main(arguments: list[str]) -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser(description="The likelihood of a Gaussian field in three dimensions.")
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--examples", type=int, default=4000, help="draws to train on")
    parser.add_argument("--measured", type=int, default=64, help="draws to measure")
    options = parser.parse_args(arguments)
    fields = {"model.features": 16, "model.attention_resolutions": (), "training.batch_size": 64}
    model = score_sde.fit(draws(options.examples, 0), steps=options.steps, config=fields)
    logging.getLogger("score_sde").info("%s", model)
    x = draws(options.measured, 1)
    found = model.log_likelihood(jax.random.key(0), x, num_probes=0)  # the exact trace
    exact = log_density(x, COVARIANCE)
    told("log-likelihood less log-density", found.logp - exact)
    told("log-density less that of independent places", exact - log_density(x, np.diag(np.diag(COVARIANCE))))
    print(f"{found.protocol}; {int(found.num_evals.max())} evaluations")


if __name__ == "__main__":
    sys.exit(run_script("field", lambda: main(sys.argv[1:])))
