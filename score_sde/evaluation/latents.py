"""Latent codes of data under a trained model: encoding, decoding and interpolation."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.distributed import gathered, jit, shared_size, spread
from score_sde.errors import UserError
from score_sde.evaluation.base import Purpose, root_key
from score_sde.experiment import Experiment
from score_sde.likelihood.latents import decode, encode, interpolate
from score_sde.typing import Params, PRNGKey

_ROWS, _COLUMNS = 8, 10  # interpolated pairs of examples, and points of each


class LatentCodes(NamedTuple):
    """Codes of data, their reconstructions, and interpolations between the first ones."""

    codes: np.ndarray
    decoded: np.ndarray  # rounded to gray levels, as the data
    between: np.ndarray  # (points, pairs, *event), rounded
    round_trip_rms: float  # of encoded minus decoded data, in the scale of the model
    num_evals: float  # mean, one way
    seconds: float


def latent_codes(experiment: Experiment, params: Params, levels: np.ndarray) -> LatentCodes:
    """Carry data along the probability flow to noise and back, and interpolate between the codes of pairs.

    The tolerances are the likelihood's: a code is the endpoint of its solve.

    Raises:
        UserError: If a solve is given up.
    """
    settings, sde = experiment.settings.likelihood, experiment.sde
    accuracy = {"t_end": settings.t_min, "tolerance": settings.tolerance}

    @jit
    def there_and_back(params: Params, key: PRNGKey, levels: Array) -> Any:
        x = experiment.quantization.dequantize(key, levels)
        codes = encode(sde, experiment.score_fn(params), x, **accuracy)
        return x, codes, decode(sde, experiment.score_fn(params), codes.y, **accuracy)

    start = time.perf_counter()
    # Repeating the last one pads the rows, so that they divide evenly over the devices.
    rows = np.minimum(np.arange(shared_size(experiment.mesh, len(levels))), len(levels) - 1)
    found = there_and_back(params, root_key(experiment, Purpose.LATENTS), spread(experiment.mesh, levels[rows]))
    x, codes, back = jax.tree.map(lambda leaf: leaf[: len(levels)], gathered(found))
    pairs = min(_ROWS, len(levels) // 2)
    path = interpolate(jnp.asarray(codes.y[: 2 * pairs : 2]), jnp.asarray(codes.y[1 : 2 * pairs : 2]), _COLUMNS)
    between = gathered(
        jit(lambda params, z: decode(sde, experiment.score_fn(params), z, **accuracy))(
            params, path.reshape(-1, *x.shape[1:])
        )
    )
    if not all(bool(solution.success.all()) for solution in (codes, back, between)):
        raise UserError("The ODE solver gave up on some of the examples; raise config.likelihood.tolerance.")
    quantize = experiment.quantization.quantize
    return LatentCodes(
        codes=np.asarray(codes.y),
        decoded=quantize(np.asarray(back.y)),
        between=quantize(np.asarray(between.y)).reshape(path.shape),
        round_trip_rms=float(jnp.sqrt(jnp.mean((back.y - x) ** 2))),
        num_evals=float(0.5 * (codes.num_evals + back.num_evals).mean()),
        seconds=time.perf_counter() - start,
    )
