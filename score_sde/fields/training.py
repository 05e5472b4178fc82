"""The fields of the objective, of the optimizer, and of the training loops."""

import dataclasses
from typing import Literal

from score_sde.fields.conditions import given, unless
from score_sde.fields.diffusion import GRIDS, MAX_LEVELS, SCORE
from score_sde.fields.kinds import Choice, Real
from score_sde.fields.lines import Group, Open, choice, flag, integer, path, real, several

MAX_STEPS = 10**9  # steps are counted in 32 bits
MAX_BATCH = 2**20
_CLOSEST = 0.9999999  # to 1 in float32, where a rate would change nothing
_TIME = (1e-12, 0.5)  # a chain of two levels begins at 1/2
_OWN_NAMES = given("optim.name", "adam", "adamw", "muon")
_NO_BOUND = unless("objective.kind", "bound")
_TIMED = unless("objective.kind", "bound", "distillation")
_STUDENT = given("objective.kind", "distillation")
_WEIGHTED = unless("objective.kind", "bound", "consistency", "mean_flow")
_CONSISTENCY = given("objective.kind", "consistency")
_FEW_STEPS = given("objective.kind", "consistency", "mean_flow")
_P2 = given("objective.weighting", "p2")
_NORMAL = given("objective.times", "lognormal", "logit_normal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Open):
    """The loss that training minimizes."""

    kind: str = choice(
        ("denoising", "bound", "implicit", "sliced", "sliced_vr", "consistency", "mean_flow", "distillation"),
        "denoising, implicit or sliced (sliced_vr) score matching; the variational bound of a chain or of a vae, "
        "which has no weighting and no times to choose; or a model of few steps: consistency (the end of the flow, "
        "best from training.init_from=a run of EDM), mean_flow (average velocities, for output=velocity) or "
        "distillation (steps as long as two of the teacher in training.init_from)",
        given=frozenset({"process", "network", "parameterization", "times", "weighting", "reduce_mean"}),
    )
    num_projections: int = integer(
        *(1, 1, 10_000, "directions per example, of one product each"),
        when=SCORE & given("objective.kind", "sliced", "sliced_vr"),
    )
    hybrid: float = real(
        0.0, 0.0, 1e4, "kind=bound: mean (n - z)^2 plus this much of the bound, for the variances; 0 for the bound"
    )
    gap_divisor: float = real(
        256.0, 1.001, 1e3, "by what the relative gap of the two noise levels is divided", _CONSISTENCY
    )
    gap_every: int = integer(
        0, 0, MAX_STEPS, "steps after which it is divided by that again, down to 0.001; 0 for never", _CONSISTENCY
    )
    adaptive_power: float = real(
        0.5, 0.0, 1.0, "errors e are weighted by (e + adaptive_offset)^-power; 0 for their squares", _FEW_STEPS
    )
    adaptive_offset: float = real(1e-6, 1e-12, 1.0, "keeps that weight finite", _FEW_STEPS)
    apart: float = real(
        0.75,
        0.0,
        1.0,
        "share of the examples with two times; the rest is flow matching",
        given("objective.kind", "mean_flow"),
    )
    student_steps: int = integer(8, 1, MAX_LEVELS, "steps of the student, half of the teacher's", _STUDENT)
    student_grid: str = choice(GRIDS, "spacing of the times of both", _STUDENT)
    weighting: str = choice(
        ("variance", "likelihood", "flow", "edm", "min_snr", "p2", "sigmoid"),
        "lambda(t): variance (s^2), likelihood (g^2), flow (the error of the path's velocity), or as in EDM, min-SNR, "
        "P2 and with the likelihood times a logistic function",
        _WEIGHTED,
        given=frozenset({"process", "t"}),
    )
    min_snr_gamma: float = real(
        5.0,
        1e-6,
        1e6,
        "the ratio from which on data count no more",
        _WEIGHTED & given("objective.weighting", "min_snr"),
    )
    p2_k: float = real(1.0, 1e-6, 1e6, "added to the signal-to-noise ratio", _WEIGHTED & _P2)
    p2_gamma: float = real(1.0, 0.0, 10.0, "its power in the denominator", _WEIGHTED & _P2)
    sigmoid_bias: float = real(
        2.0, -30.0, 30.0, "the log-SNR at which half is left", _WEIGHTED & given("objective.weighting", "sigmoid")
    )
    uncertainty: bool = flag(
        False,
        "divide the loss at every noise level by the error that is left there, which is learned beside the network",
        given("objective.kind", "denoising"),
    )
    times: str = choice(
        ("uniform", "low_discrepancy", "levels", "importance", "weighted", "lognormal", "logit_normal"),
        "training times: levels takes num_scales of them; importance suits weighting=likelihood, weighted any; with "
        "lognormal noise levels s/m, or with a normal logit, which are then part of what is minimized",
        when=_TIMED,
        given=frozenset({"t0", "num_levels", "sde", "weighting"}),
    )
    time_mean: float = real(-1.2, -30.0, 30.0, "mean of log s/m, or of the logit of t", _TIMED & _NORMAL)
    time_std: float = real(1.2, 1e-3, 30.0, "its standard deviation", _TIMED & _NORMAL)
    even_times: bool = flag(
        False,
        "one time of every batch in each of as many quantiles as examples",
        _TIMED & given("objective.times", "importance", "weighted", "lognormal", "logit_normal"),
    )
    t_min: float = real(1e-5, *_TIME, "smallest training time", _NO_BOUND)
    reduce_mean: bool = flag(True, "mean over the event, else half the sum", _NO_BOUND)
    augment_probability: float = real(
        *(
            0.0,
            1e-4,
            1.0,
            "probability of each augmentation of training images, of which the network is told; 0 for none",
        ),
        when=unless("objective.kind", "bound", "distillation"),
        or_zero=True,
    )
    levels: str = choice(
        ("bins", "midpoints"),
        "where gray levels enter: anywhere in their bins, or in the middle, for likelihood.dequantization="
        "truncated_normal",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim(Open):
    """The optimizer, and the averages of the parameters."""

    name: str = choice(
        ("adam", "adamw", "muon"),
        "the optimizer: adam and adamw are the same with weight_decay; muon for matrices and kernels, whose last axis "
        "is the output, and Adam for the rest; any of optax too, such as optax:lion",
        given=frozenset({"learning_rate"}),
    )
    # Adam moves every parameter by about lr at a step, and parameters are of size 1.
    lr: float = real(2e-4, 1e-12, 10.0, "learning rate after warm-up", or_zero=True)
    beta1: float = real(0.9, 0.0, _CLOSEST, "decay of the first moment", _OWN_NAMES)
    beta2: float = real(0.999, 0.0, _CLOSEST, "decay of the second moment", _OWN_NAMES)
    eps: float = real(1e-8, 1e-30, 1.0, "added to the root of the second moment", _OWN_NAMES, or_zero=True)
    weight_decay: float = real(
        *(0.0, 1e-12, 10.0, "decoupled weight decay, times lr at a step; 0 for none", _OWN_NAMES), or_zero=True
    )
    momentum: float = real(0.95, 0.0, _CLOSEST, "decay of the mean of gradients", given("optim.name", "muon"))
    warmup: int = integer(5000, 0, MAX_STEPS, "steps of linear warm-up from 0")
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = choice(
        ("constant", "cosine", "inverse_sqrt"),
        "after warm-up; cosine falls to 0 at training.num_steps, inverse_sqrt from step decay_after on like 1 / sqrt n",
    )
    decay_after: int = integer(
        *(
            70_000,
            1,
            MAX_STEPS,
            "the step n after which the rate is lr sqrt(decay_after / n), or the warm-up if that is longer",
        ),
        when=given("optim.schedule", "inverse_sqrt"),
    )
    grad_clip: float = real(1.0, 1e-6, 1e9, "largest global norm of the gradient; 0 for no limit", or_zero=True)
    ema_rate: float = real(
        0.9999, 1e-3, _CLOSEST, "rate of the moving average, which looks back 1 / (1 - rate) steps; 0 for none",
        or_zero=True,
    )  # fmt: skip
    ema_warmup: bool = flag(False, "rate min(ema_rate, (1 + n) / (10 + n)) at step n", unless("optim.ema_rate", 0.0))
    ema_widths: tuple[float, ...] = several(
        *((), Real(low=0.001, high=0.28), (0, 4)),  # each costs as much memory as the parameters
        "relative widths of power-function averages beside that one, such as (0.05, 0.10): any other can be had later",
        distinct=True,
    )
    ema_snapshot_every: int = integer(0, 0, MAX_STEPS, "steps between snapshots of them; 0 for none")


_TRACKER = Choice(names=("wandb", "mlflow"), given=frozenset({"workdir", "config"}))


#: Fields of a loop that are multiples of the steps of a call.
DISPATCHED = ("num_steps", "log_every", "eval_every", "checkpoint_every", "sample_every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop(Group):
    """The common fields of the training loops of networks, of dequantizers and of classifiers."""

    num_steps: int = integer(1_300_000, 1, MAX_STEPS, "steps of training")
    batch_size: int = integer(128, 1, MAX_BATCH, "examples of a step, over all devices and hosts")
    steps_per_dispatch: int = integer(
        0, 0, 1000, "steps per call of the compiled program; 0 for one, but on a CPU for up to 5 that fit the intervals"
    )
    accumulate: int = integer(1, 1, MAX_BATCH, "parts in which the gradient of a batch is computed, one after another")
    log_every: int = integer(50, 1, MAX_STEPS, "steps between two lines of metrics")
    eval_every: int = integer(5000, 1, MAX_STEPS, "steps between losses of the averaged parameters on the test split")
    checkpoint_every: int = integer(10_000, 1, MAX_STEPS, "steps between checkpoints")
    keep_checkpoints: int = integer(3, 1, 10**6, "how many of the newest checkpoints are kept")
    keep_every: int = integer(0, 0, MAX_STEPS, "and those at multiples of this step; 0 for none")
    keep_best: int = integer(0, 0, 10**6, "and that many with the lowest loss on the test split")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Loop, Open):
    """The training of the network."""

    sample_every: int = integer(
        0, 0, MAX_STEPS, "steps between pictures of what the averaged parameters make of the same noise; 0 for none"
    )
    trackers: tuple[str, ...] = several(
        *((), _TRACKER, (0, 8)),
        "where metrics go beside metrics.jsonl and TensorBoard: Weights & Biases and MLflow, which are extras of the "
        "package and stay on this machine unless their environment says otherwise; or writers of your own",
        distinct=True,
    )
    init_from: str = path(
        "",
        "a model whose averaged parameters training starts from, with a new optimizer: a folder of --mode=export, a "
        "working directory, or a published checkpoint; empty for none",
    )
    init_anew: bool = flag(
        False,
        "initialize the parameters that do not fit that model, for other classes or sizes; else they are refused",
        unless("training.init_from", ""),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dequantizer(Loop):
    """--mode=train_dequantizer: dequantization noise trained on a finished model, for a tighter likelihood."""

    name: str = choice(("none", "flowpp"), "none (uniform noise) or flowpp (a flow conditioned on the image)")
    filters: int = integer(96, 1, 2**14, "channels of the networks in its couplings, a multiple of heads")
    components: int = integer(32, 1, 1024, "logistic distributions per mixture")
    blocks: int = integer(2, 1, 64, "blocks of convolution and attention per coupling")
    num_flows: int = integer(4, 1, 64, "couplings, each of which moves every other column: 2 move them all")
    heads: int = integer(4, 1, 1024, "heads of attention")
    context_features: int = integer(32, 1, 2**14, "channels of the network that reads the image")
    dropout: float = real(0.0, 0.0, 0.99, "share of the values inside a block that training sets to 0")
    t_min: float = real(1e-5, *_TIME, "smallest time of the bound that it is trained on")
    offset: bool = flag(True, "whether that bound has the decoder at t_min, one more evaluation of the model")
    lr: float = real(2e-4, 1e-12, 10.0, "learning rate; the rest of the optimizer is config.optim", or_zero=True)
    warmup: int = integer(5000, 0, MAX_STEPS, "steps of linear warm-up from 0")
    ema_rate: float = real(0.99, 1e-3, _CLOSEST, "rate of the moving average; 0 for none", or_zero=True)
    num_steps: int = integer(300_000, 1, MAX_STEPS, "steps of training")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(Loop):
    """--mode=train_classifier: a classifier of noisy data that is told the noise, to guide samples by its gradient."""

    widening: int = integer(10, 1, 64, "channels of its first blocks in multiples of 16; of points, of all its layers")
    num_blocks: int = integer(4, 1, 64, "blocks in each of three groups, (depth - 4) / 6; of points, its layers")
    t_min: float = real(1e-5, *_TIME, "smallest training time")
    levels: int = integer(20, 2, 1000, "noise levels at which its accuracy is measured, evenly in log-SNR")
    lr: float = real(2e-4, 1e-12, 10.0, "learning rate; the rest of the optimizer is config.optim", or_zero=True)
    warmup: int = integer(5000, 0, MAX_STEPS, "steps of linear warm-up from 0")
    ema_rate: float = real(0.999, 1e-3, _CLOSEST, "rate of the moving average; 0 for none", or_zero=True)
    num_steps: int = integer(300_000, 1, MAX_STEPS, "steps of training")
