"""The likelihood of one flow by this package and by the flow_matching package: the same values, and their times.

    pip install torch flow_matching torchdiffeq
    taskset -c 0 python experiments/paths/flow_matching_nll.py --rounds=5

A small perceptron is trained on the digits as flow matching on the straight path, and its weights are given to PyTorch.
Both packages then integrate the same velocity and its exact divergence over the same held-out images, with adaptive
solvers of order 5 at the same tolerances, in turns in one process. There all examples share their steps and the
divergence is a loop over dimensions; here every example has its own steps, or with ``joint`` shares them too.
"""

import sys
from pathlib import Path
from typing import Any

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX and PyTorch are loaded

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch  # pyright: ignore[reportMissingImports]
from flow_matching.solver import ODESolver  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]

sys.path.append(str(Path(__file__).parents[2]))  # where the folder of all experiments is
from experiments.benchmarks.harness import interleave, parser_for, report
from score_sde.data import load_source
from score_sde.distributed import jit
from score_sde.likelihood import Likelihood, log_likelihood
from score_sde.objectives import UniformTimes, flow_weighting, score_matching_loss
from score_sde.parameterization import VelocityPrediction, make_score_fn
from score_sde.quantization import Quantization
from score_sde.sdes import RectifiedFlow
from score_sde.typing import Batch, Params, PRNGKey, Times

PATH, KIND, QUANTIZATION = RectifiedFlow(), VelocityPrediction(), Quantization(num_grey_levels=17)
WIDTH, DIM = 256, 64
T_MIN = 1e-5


class Perceptron:
    """Three dense layers of the data and of the time."""

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Weights and biases."""
        sizes = ((shape[-1] + 1, WIDTH), (WIDTH, WIDTH), (WIDTH, shape[-1]))
        keys = jax.random.split(key, len(sizes))
        return [
            (jax.random.normal(own, size) / np.sqrt(size[0]), jnp.zeros(size[1]))
            for own, size in zip(keys, sizes, strict=True)
        ]

    def apply(self, params: Params, x: Batch, condition: Times, *, label: Any = None, key: Any = None) -> Batch:
        """The velocity; the condition is ``999 t``."""
        h = jnp.concatenate([x, condition[:, None] / 999.0], axis=1)
        for index, (weight, bias) in enumerate(params):
            h = h @ weight + bias if index == 0 else jnp.tanh(h) @ weight + bias
        return h


def images(split: str, key: PRNGKey) -> Batch:
    """Images as vectors, with noise in the bins of their levels."""
    source = load_source("digits", split)
    levels = source.gather(np.arange(len(source))).reshape(-1, DIM)
    return QUANTIZATION.dequantize(key, jnp.asarray(levels))


def trained(steps: int) -> Params:
    """The perceptron, trained by flow matching."""
    loss = score_matching_loss(PATH, Perceptron(), KIND, times=UniformTimes(t0=1e-3), weighting=flow_weighting)
    data, tx = images("train", jax.random.key(0)), optax.adam(1e-3)
    params = Perceptron().init(jax.random.key(1), (1, DIM))

    def step(carry: Any, key: PRNGKey) -> Any:
        params, state = carry
        batch = data[jax.random.randint(key, (128,), 0, len(data))]
        grads = jax.grad(lambda p: loss(p, key, batch, train=True).mean())(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(2), steps)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0][0])((params, tx.init(params)))


class Velocity(torch.nn.Module):
    """The same perceptron in PyTorch, in the direction of flow_matching: from noise at 0 to data at 1."""

    def __init__(self, params: Params) -> None:
        """Take the weights."""
        super().__init__()
        self.layers = [tuple(torch.tensor(np.asarray(part)) for part in layer) for layer in params]
        self.num_evals = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Minus the velocity at time ``1 - t``."""
        self.num_evals += 1
        h = torch.cat([x, torch.full_like(x[:, :1], 1.0 - float(t))], dim=1)
        for index, (weight, bias) in enumerate(self.layers):
            h = h @ weight + bias if index == 0 else torch.tanh(h) @ weight + bias
        return -h


def outside(velocity: Velocity, x: np.ndarray, tolerance: float) -> np.ndarray:
    """Log-likelihoods in nats by flow_matching, with the exact divergence."""
    normal = torch.distributions.Normal(0.0, 1.0)
    _, logp = ODESolver(velocity).compute_likelihood(
        x_1=torch.tensor(x),
        log_p0=lambda z: normal.log_prob(z).sum(dim=1),
        step_size=None,
        method="dopri5",
        atol=tolerance,
        rtol=tolerance,
        exact_divergence=True,
    )
    return logp.detach().numpy()


def main() -> None:
    """Print values, their differences, evaluations and times."""
    parser = parser_for(__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    parser.add_argument("--examples", type=int, default=64, help="held-out images")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="relative and absolute tolerance")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of one batch each")
    args = parser.parse_args()
    params, x = trained(args.steps), images("test", jax.random.key(3))[: args.examples]

    def inside(joint: bool) -> Any:
        def likelihood(params: Params, x: Batch) -> Likelihood:
            score_fn = make_score_fn(Perceptron(), KIND, PATH, params)
            options = {"rtol": args.tolerance, "atol": args.tolerance, "num_probes": None, "joint": joint}
            return log_likelihood(jax.random.key(0), PATH, score_fn, x, t0=T_MIN, **options)

        return jit(likelihood)

    velocity, given = Velocity(params), np.array(x)
    programs = {"score_sde": inside(False), "score_sde, joint": inside(True)}
    other = outside(velocity, given, args.tolerance)
    bits = QUANTIZATION.bits_per_dim(jnp.asarray(other), DIM).mean()
    print(f"flow_matching: {bits:.5f} bits/dim, {velocity.num_evals} evaluations")
    for name, program in programs.items():
        found = program(params, x)
        apart, bits = np.abs(np.asarray(found.logp) - other), QUANTIZATION.bits_per_dim(found.logp, DIM).mean()
        print(
            f"{name}: {bits:.5f} bits/dim, {np.mean(found.num_evals):.0f} evaluations, "
            f"{apart.mean():.1e} nats apart in the mean, {apart.max():.1e} at most"
        )
    timed: dict[str, Any] = {
        name: lambda run=run: jax.block_until_ready(run(params, x)) for name, run in programs.items()
    }
    timed["flow_matching"] = lambda: outside(velocity, given, args.tolerance)
    report(interleave(timed, rounds=args.rounds, steps=1), subject="score_sde")


if __name__ == "__main__":
    sys.exit(run_script("flow_matching_nll", main))
