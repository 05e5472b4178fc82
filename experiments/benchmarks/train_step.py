"""Is a training step of the package as fast as PyTorch's? Same network, same work, in turns.

    python experiments/benchmarks/train_step.py --batch 64 --features 16 --rounds 10

The demo network by default; with ``--forward`` only its evaluation. Before anything is timed the two networks are shown
to be the same: equal parameter counts, and equal outputs for the same random weights. In training both sides take
batches of gray levels from host memory and do the whole step: dequantize, perturb, forward, backward, clip, Adam and
moving average.

PyTorch runs with one thread and with one per core, and with channels last or first in memory; the honest opponent is
the fastest: operations of a small network cost less than waking a second thread.
"""

import argparse
import copy
import functools
import sys
from collections.abc import Callable

from harness import PYRAMIDS, network_fields, network_parser, report, serve, take_turns

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX and PyTorch are loaded

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch_ddpmpp import DDPMpp, Trainer
from torch_ncsnpp import NCSNpp as TorchNCSNpp

from score_sde.distributed import global_batch, jit, jit_step, make_mesh, options_once, replicated
from score_sde.errors import unknown
from score_sde.fields.training import Optim
from score_sde.models.adapters import LinenNetwork
from score_sde.models.ncsnpp import NCSNpp
from score_sde.objectives import LowDiscrepancyTimes, score_matching_loss, variance_weighting
from score_sde.parameterization import NoisePrediction
from score_sde.quantization import Quantization
from score_sde.sdes import VP
from score_sde.state import TrainState, create_state
from score_sde.training.optim import make_optimizer
from score_sde.training.step import make_train_step, repeat_step
from score_sde.typing import Params

OPTIMIZER = {"lr": 2e-4, "warmup": 1000}
EMA_RATE = 0.999
NUM_LEVELS = 17  # gray levels of the 8x8 digits


def make_state(network: LinenNetwork, shape: tuple[int, ...]) -> TrainState:
    """The package's state at step 0."""

    def make() -> TrainState:
        return create_state(network, make_optimizer(Optim(**OPTIMIZER)), 0, shape)

    return jax.jit(make, compiler_options=options_once())()


def jax_block(network: LinenNetwork, state: TrainState, batches: np.ndarray, per_call: int) -> Callable[[], object]:
    """The package's own training step, run over all batches, some in each call."""
    loss_fn = score_matching_loss(
        VP(), network, NoisePrediction(), times=LowDiscrepancyTimes(), weighting=variance_weighting
    )
    prepare = Quantization(num_grey_levels=NUM_LEVELS).dequantize
    step = make_train_step(loss_fn, make_optimizer(Optim(**OPTIMIZER)), prepare=prepare, ema_rate=EMA_RATE)
    mesh = make_mesh()
    leading, parts = (1, batches.reshape(-1, per_call, *batches.shape[1:])) if per_call > 1 else (0, batches)
    run_step = jit_step(repeat_step(step) if leading else step, mesh, replicated(mesh), leading=leading)
    state = jax.device_put(jax.tree.map(jax.numpy.copy, state), replicated(mesh))  # a copy, since steps consume it

    def block() -> object:
        nonlocal state
        for batch in parts:
            state, _ = run_step(state, global_batch(mesh, batch, leading=leading))
        return jax.block_until_ready(state)

    return block


def jax_forward(network: LinenNetwork, params: Params, batches: np.ndarray, per_call: int) -> Callable[[], object]:
    """The evaluation of the network, run over all batches; some in each call, in a loop as samplers evaluate it."""
    condition = jax.numpy.linspace(1.0, 999.0, batches.shape[1])

    def evaluate(params: Params, images: jax.Array) -> jax.Array:
        return jax.lax.map(lambda x: network.apply(params, x, condition), images)

    parts = jax.numpy.asarray(batches.reshape(-1, per_call, *batches.shape[1:]), "float32")
    run = jit(evaluate)
    return lambda: jax.block_until_ready([run(params, images) for images in parts])


def torch_block(model: DDPMpp, batches: np.ndarray, threads: int, layout: torch.memory_format) -> Callable[[], None]:
    """The PyTorch training step on a copy of the model, run over all batches."""
    model = copy.deepcopy(model).to(memory_format=layout)
    trainer = Trainer(model, layout, **OPTIMIZER, ema_rate=EMA_RATE, num_levels=NUM_LEVELS)

    def block() -> None:
        torch.set_num_threads(threads)
        for batch in batches:
            trainer.step(batch)  # eager on a CPU: it has finished when it returns

    return block


def torch_forward(model: DDPMpp, batches: np.ndarray, threads: int, layout: torch.memory_format) -> Callable[[], None]:
    """The evaluation in PyTorch, run over all batches."""
    model = copy.deepcopy(model).to(memory_format=layout).eval()
    images = [torch.from_numpy(batch).permute(0, 3, 1, 2).float().contiguous(memory_format=layout) for batch in batches]
    condition = torch.linspace(1.0, 999.0, batches.shape[1])

    def block() -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            for x in images:
                model(x, condition)

    return block


def randomized(params: Params) -> Params:
    """Weights of ordinary size everywhere: at initialization the residual branches are zero and would hide errors."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.Array) -> np.ndarray:
        fan_in = max(int(np.prod(leaf.shape[:-1])), 4)
        return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in) + (leaf.ndim == 1)).astype(np.float32)

    return jax.tree.map(draw, params)


def check_same_network(network: LinenNetwork, model: DDPMpp, params: Params, shape: tuple[int, ...]) -> None:
    """Compare parameter counts and, for random weights, outputs; prints both.

    Raises:
        AssertionError: If the networks differ.
    """
    counts = sum(leaf.size for leaf in jax.tree.leaves(params)), sum(p.numel() for p in model.parameters())
    assert counts[0] == counts[1], f"parameter counts differ: JAX {counts[0]}, PyTorch {counts[1]}"
    params = randomized(params)
    model.load_flax(params)
    rng = np.random.default_rng(1)
    x, condition = rng.standard_normal(shape).astype(np.float32), 999 * rng.uniform(size=shape[:1]).astype(np.float32)
    expected = np.asarray(jax.jit(network.apply)(params, x, condition))
    with torch.inference_mode():
        output = model.eval()(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(condition))
    error = np.abs(output.permute(0, 2, 3, 1).numpy() - expected).max() / np.abs(expected).max()
    print(f"parameters: {counts[0]} on both sides; outputs differ by {error:.1e} of the largest")
    assert error < 1e-4, "the networks are not the same"


def torch_network(args: argparse.Namespace) -> DDPMpp:
    """PyTorch's network of the parsed size."""
    trunk = {name: value for name, value in network_fields(args).items() if name not in PYRAMIDS}
    return (TorchNCSNpp if args.ncsnpp else DDPMpp)(tuple(args.image), **trunk)


def main() -> None:
    """Check that both sides do the same work, then time them."""
    parser = network_parser(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument(
        "--torch-threads", type=int, nargs="+", default=(1, torch.get_num_threads()), help="threads of PyTorch to try"
    )
    parser.add_argument("--layouts", nargs="+", default=("last",), choices=("last", "first"), help="channels in memory")
    parser.add_argument(
        "--per-call", type=int, nargs="+", default=(5, 1), help="steps in a call of the package; the first is compared"
    )
    parser.add_argument("--forward", action="store_true", help="time the evaluation alone")
    parser.add_argument("--side", help="run this program, a step after every line of input; for the script itself")
    args = parser.parse_args()
    if any(args.steps % count for count in args.per_call):
        parser.error(f"--per-call has {args.per_call}; expected divisors of --steps={args.steps}")
    image, fields = tuple(args.image), network_fields(args)
    network = LinenNetwork(NCSNpp(**fields))
    model = torch_network(args)
    state = make_state(network, (1, *image))
    if not args.side:
        check_same_network(network, model, state.params, (args.batch, *image))
    model.load_flax(state.params)
    batches = np.random.default_rng(2).integers(NUM_LEVELS, size=(args.steps, args.batch, *image), dtype=np.uint8)
    theirs = torch_forward if args.forward else torch_block
    ours, given = (jax_forward, state.params) if args.forward else (jax_block, state)
    programs: dict[str, Callable[[], Callable[[], object]]]
    programs = {f"score_sde, {n} in a call": functools.partial(ours, network, given, batches, n) for n in args.per_call}
    (subject, *_) = programs
    layouts = {"last": torch.channels_last, "first": torch.contiguous_format}
    for layout in args.layouts:
        for threads in args.torch_threads:
            program = functools.partial(theirs, model, batches, threads, layouts[layout])
            programs[f"torch, {threads} threads, {layout}"] = program
    if args.side:
        if args.side not in programs:
            raise unknown("side", args.side, programs)
        serve(programs[args.side]())
        return
    print(f"jax {jax.__version__}; torch {torch.__version__}, eager")
    report(take_turns(list(programs), rounds=args.rounds, steps=args.steps), subject=subject)


if __name__ == "__main__":
    sys.exit(run_script("train_step", main))
