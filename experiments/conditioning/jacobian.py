"""Is the Jacobian of a model's denoiser a covariance? MMPS takes it for one.

    python experiments/conditioning/jacobian.py --model=mnist-vdm --data_dir=D --images=4

Of the exact denoiser ``D`` the matrix ``V = (s^2 / m) dD/dx`` is the covariance of the image given the noisy one: it
is symmetric, and its trace is in the mean the squared error of ``D``. For test images at several noise levels, a row
each: the squared error, the trace, the size of the antisymmetric part in units of the symmetric one, and the sum of
the negative eigenvalues in units of the trace.
"""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import score_sde
from score_sde.cli import run_script
from score_sde.data import load_source
from score_sde.parameterization import denoise
from score_sde.quantization import PLACES


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="digits-vp", help="a pretrained model, a folder or a working directory")
    parser.add_argument("--data_dir", default="", help="directory of the data set")
    parser.add_argument("--images", type=int, default=4, help="test images")
    parser.add_argument("--log_snr", type=float, nargs="+", default=(-3.0, 0.0, 3.0, 6.0), help="noise levels")
    args = parser.parse_args()
    model = score_sde.load(args.model)
    experiment = model.experiment
    source = load_source(experiment.settings.data.name, "test", data_dir=args.data_dir)
    levels = source.gather(np.arange(min(args.images, len(source))))
    place = PLACES[experiment.settings.objective.levels]
    truth = place(experiment.quantization, jax.random.key(0), jnp.asarray(levels))
    measure = measured(experiment, model.params)
    print("| log-SNR | squared error | trace | antisymmetric / symmetric | negative eigenvalues / trace |")
    print("|---|---|---|---|---|")
    for log_snr in args.log_snr:
        t = experiment.process.inverse_log_snr(jnp.float32(log_snr))
        found = [measure(jax.random.key(number), x, t) for number, x in enumerate(truth)]
        print(f"| {log_snr:g} | {' | '.join(f'{value:.3g}' for value in np.mean(found, axis=0))} |", flush=True)


def measured(experiment: Any, params: Any) -> Any:
    """The function ``(key, image, t)`` to the four numbers of a row."""
    process, score = experiment.process, experiment.followed_score(params)

    def denoised(x: Any, t: Any) -> Any:
        return denoise(process, score, x.reshape(1, *experiment.event_shape), t[None]).ravel()

    look = jax.jit(lambda x, t: (denoised(x, t), jax.jacrev(denoised)(x, t)))

    def measure(key: Any, image: Any, t: Any) -> tuple[float, ...]:
        mean_coeff, std = process.marginal(t)
        x = mean_coeff * image.ravel() + std * jax.random.normal(key, (image.size,))
        found, jacobian = (np.asarray(part, np.float64) for part in look(x, t))
        covariance = float(std**2 / mean_coeff) * jacobian
        symmetric, rest = 0.5 * (covariance + covariance.T), 0.5 * (covariance - covariance.T)
        values = np.linalg.eigvalsh(symmetric)
        error, trace = float(np.sum((found - np.asarray(image).ravel()) ** 2)), float(np.trace(covariance))
        ratio = float(np.linalg.norm(rest) / np.linalg.norm(symmetric))
        return error, trace, ratio, float(-values[values < 0.0].sum() / trace)

    return measure


if __name__ == "__main__":
    sys.exit(run_script("jacobian", main))
