"""What does a likelihood cost at equal error? The package against the host loop of score_sde_pytorch, on one network.

    python experiments/benchmarks/likelihood.py --workdir runs/digits --rounds 5

The opponent is the method of score_sde_pytorch with the network in PyTorch: SciPy's RK45 at tolerance 1e-5 over a
joint batch, one frozen Rademacher probe, drift and divergence from two evaluations. Errors are root mean squares over
images, against the exact trace on a grid of 128 steps. The package takes as few steps of its fixed grid, with a fresh
probe at each, as have no larger error.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import interleave, parser_for, report

from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX and PyTorch are loaded

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from scipy import integrate
from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch_ddpmpp import DDPMpp

from score_sde.cli import load_config, run_script
from score_sde.distributed import jit
from score_sde.experiment import Experiment
from score_sde.likelihood import Likelihood, log_likelihood_on_grid
from score_sde.modes.workdir import build_experiment, load_split, trained_state
from score_sde.sampling import log_snr_times
from score_sde.typing import Params

T_MIN = 1e-5
STEPS = (32, 48, 64)  # fewer have no larger error either, but a bias of the solver in it


class HostLoop:
    """The likelihood of score_sde_pytorch: SciPy outside, the network in PyTorch inside."""

    def __init__(self, model: DDPMpp, x: np.ndarray, seed: int = 0) -> None:
        """Keep the images as NCHW and draw one probe for each."""
        self.model = model.eval().requires_grad_(False)
        self.x = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
        generator = torch.Generator().manual_seed(seed)
        self.probe = torch.randint(0, 2, self.x.shape, generator=generator).float() * 2 - 1
        self.num_evals = 0

    def drift(self, x: Tensor, t: float) -> Tensor:
        """The drift of the VP probability flow."""
        std = float(np.sqrt(-np.expm1(-(0.1 * t + 9.95 * t**2))))
        score = -self.model(x, torch.full((len(x),), 999.0 * t)) / std
        beta = 0.1 + 19.9 * t
        return -0.5 * beta * (x + score)

    def divergence(self, x: Tensor, t: float) -> Tensor:
        """Hutchinson's estimate, from another evaluation."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad((self.drift(x, t) * self.probe).sum(), x)
        return (gradient * self.probe).flatten(1).sum(1)

    def __call__(self) -> np.ndarray:
        """Log-likelihoods in nats."""
        size = self.x.numel()

        def field(t: float, state: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(state[:size].reshape(self.x.shape)).float()
            with torch.no_grad():
                drift = self.drift(x, t)
            return np.concatenate([drift.numpy().reshape(-1), self.divergence(x, t).numpy()])

        start = np.concatenate([self.x.numpy().reshape(-1), np.zeros(len(self.x))])
        solution: Any = integrate.solve_ivp(field, (T_MIN, 1.0), start, rtol=1e-5, atol=1e-5, method="RK45")
        self.num_evals = solution.nfev
        end = solution.y[:, -1]
        latents = end[:size].reshape(len(self.x), -1)
        dim = latents.shape[1]
        return -0.5 * (dim * np.log(2 * np.pi) + (latents**2).sum(axis=1)) + end[size:]


def grid_program(experiment: Experiment, params: Params, x: np.ndarray, steps: int) -> Callable[[], Likelihood]:
    """The package on a grid of ``steps`` steps."""
    times = log_snr_times(experiment.sde, steps, T_MIN)

    def measure(params: Params, key: Any, x: Any) -> Likelihood:
        return log_likelihood_on_grid(key, experiment.sde, experiment.score_fn(params), x, times)

    run, images, key = jit(measure), jnp.asarray(x), jax.random.key(1)
    return lambda: jax.block_until_ready(run(params, key, images))


def exact(experiment: Experiment, params: Params, x: np.ndarray) -> np.ndarray:
    """The exact trace on a fine grid, a few images at a time."""
    times = log_snr_times(experiment.sde, 128, T_MIN)

    def measure(params: Params, x: Any) -> Likelihood:
        score_fn = experiment.score_fn(params)
        return log_likelihood_on_grid(jax.random.key(0), experiment.sde, score_fn, x, times, num_probes=None)

    run = jit(measure)
    return np.concatenate([np.asarray(run(params, jnp.asarray(part)).logp) for part in np.split(x, len(x) // 16)])


def rms(values: np.ndarray) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def main() -> None:
    """Find the grid of equal error, then time it between the runs of the opponent."""
    parser = parser_for(__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run")
    parser.add_argument("--config", type=Path, default=Path("configs/vp/digits_ddpmpp.py"), help="its configuration")
    parser.add_argument("--images", type=int, default=64, help="held-out images, a multiple of 16")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of one likelihood each")
    args = parser.parse_args()
    config = load_config(args.config, [])
    experiment = build_experiment(config)
    params = trained_state(experiment, args.workdir).ema_params
    levels = load_split(config, "test").gather(np.arange(args.images))
    x = np.asarray(experiment.quantization.dequantize(jax.random.key(2), jnp.asarray(levels)))
    fields = ("features", "channel_multipliers", "num_blocks", "attention_resolutions", "dropout")
    height, width, channels = experiment.event_shape
    model = DDPMpp((height, width, channels), **{name: config.model[name] for name in fields})
    model.load_flax(jax.device_get(params))
    theirs, truth = HostLoop(model, x), exact(experiment, params, x)
    error = theirs() - truth
    print(f"score_sde_pytorch's method: {theirs.num_evals} x 2 evaluations, error {rms(error):.3f} nats rms")
    ours = {}
    for steps in STEPS:
        ours = {"score_sde": grid_program(experiment, params, x, steps)}
        gap = np.asarray(ours["score_sde"]().logp) - truth
        print(f"score_sde, {steps} steps: {steps + 1} evaluations, error {rms(gap):.3f} rms, {gap.mean():+.3f} mean")
        if rms(gap) <= rms(error):
            break
    programs = {**ours, "score_sde_pytorch's method": theirs}
    print(f"jax {jax.__version__}; torch {torch.__version__}, eager, {torch.get_num_threads()} threads; per image:")
    report(interleave(programs, rounds=args.rounds, steps=args.images), subject="score_sde")


if __name__ == "__main__":
    sys.exit(run_script("likelihood", main))
