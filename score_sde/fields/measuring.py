"""The fields of the uses of a trained model: sampling, planning, likelihood, evaluation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from score_sde.fields.conditions import When, given, unless
from score_sde.fields.diffusion import CHAIN, GRIDS, MAX_LEVELS, SCORE
from score_sde.fields.kinds import Choice, Integer
from score_sde.fields.lines import Group, Open, choice, flag, integer, path, real, several, text
from score_sde.fields.training import MAX_BATCH

NOISY = (
    *("euler_maruyama", "reverse_diffusion", "ancestral", "ancestral_large", "ddim"),
    *("sde_dpm_solver_1", "sde_dpm_solver_2m", "sde_dpm_solver_3m", "none"),
)
NOISELESS = (
    *("euler", "heun", "edm_heun", "dpm_solver_1", "dpm_solver_2s", "dpm_solver_2m", "dpm_solver_3m"),
    *("unipc_1", "unipc_2", "unipc_3"),
)
FLOW_MAPS = ("consistency", "mean_flow")  # of networks that have learned something else than the score
ADAPTIVE = ("adaptive", "adaptive_sde")
METRICS = (
    *("frechet", "frechet_infinity", "kid", "precision_recall", "density_coverage", "inception_score"),
    *("sliced_wasserstein", "energy"),
)
EXTRACTORS = (
    *("auto", "pixels", "classifier-digits", "classifier-mnist"),
    *("inception-2015", "inception-2015-pytorch-resize", "efficientnet-lite0"),
)
MIN_SAMPLES = 40  # the groups of an interval of a metric need two each
MAX_EXAMPLES = 10**8
_TIME = (1e-12, 0.5)  # a chain of two levels begins at 1/2
_MAX_RATIO = 1e30  # of noise to signal: no limit
# Of the error of one step, relative to the values: above 0.1 nothing is controlled, below 1e-12 no solver finishes.
_TOLERANCE = (1e-12, 0.1)

_ALWAYS = When()
_SWEPT: Mapping[str, Any] = {"instead": ("pareto",)}  # --mode=pareto takes these from config.pareto
_NOISE_SCALE = given(
    "sampling.predictor",
    *("euler_maruyama", "reverse_diffusion", "ancestral", "ancestral_large"),
    *("sde_dpm_solver_1", "sde_dpm_solver_2m", "sde_dpm_solver_3m", "adaptive_sde"),
)
_CHURN = given("sampling.predictor", "edm_heun")
_CHURNED = _CHURN & unless("sampling.churn", 0.0)
_CORRECTED, _LANGEVIN = unless("sampling.corrector", "none"), given("sampling.corrector", "langevin")
_ADAPTIVE, _ADAPTIVE_SDE = (given("sampling.predictor", name) for name in ADAPTIVE)
_ADAPTS = given("sampling.predictor", *ADAPTIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(Open):
    """Sampling from the trained model."""

    when: ClassVar[When] = SCORE

    predictor: str = choice(
        (*NOISY, *NOISELESS, *FLOW_MAPS, *ADAPTIVE),
        "the solver: with noise euler_maruyama to none, without euler to unipc_3; with as many steps as the error asks "
        "for adaptive (the probability flow) and adaptive_sde (with noise); of models with the objective of their name "
        "consistency and mean_flow",
        given=frozenset(),
        **_SWEPT,
    )
    noise_scale: float = real(1.0, 0.0, 10.0, "1 the reverse SDE, 0 the probability flow", _NOISE_SCALE)
    eta: float = real(0.0, 0.0, 1.0, "0 no noise, 1 ancestral sampling", given("sampling.predictor", "ddim"))
    churn: float = real(0.0, 0.0, 1.0, "relative increase of the noise before each step, at most 0.41", _CHURN)
    churn_min: float = real(0.0, 0.0, _MAX_RATIO, "lowest noise-to-signal ratio with churn", _CHURNED)
    churn_max: float = real(_MAX_RATIO, 0.0, _MAX_RATIO, "highest noise-to-signal ratio with churn", _CHURNED)
    corrector: str = choice(
        ("none", "langevin", "annealed_langevin"), "what corrects after every step", given=frozenset(), **_SWEPT
    )
    snr: float = real(0.16, 0.0, 10.0, "signal-to-noise ratio of a correction", _CORRECTED, **_SWEPT)
    per_sample: bool = flag(
        False, "norms per sample, not over the batch; samples then ignore each other", _LANGEVIN, **_SWEPT
    )
    num_corrections: int = integer(1, 0, 1000, "corrections per step", _CORRECTED, **_SWEPT)
    corrector_first: bool = flag(False, "correct before the step, not after it", _CORRECTED, **_SWEPT)
    num_steps: int = integer(1000, 1, MAX_LEVELS, "steps of a predictor that chooses none", **_SWEPT)
    grid: str = choice(GRIDS, "spacing of the times", given=frozenset({"process", "num_steps", "t_end"}))
    rho: float = real(7.0, 1.0, 100.0, "the root in which the steps are equal", given("sampling.grid", "edm"))
    t_min: float = real(1e-3, *_TIME, "where sampling stops; 1e-5 for ve")
    denoising: Literal["tweedie", "mean", "none"] = choice(
        ("tweedie", "mean", "none"), "how the noise left at t_min is removed", _ALWAYS
    )
    thresholding: str = choice(
        ("none", "static", "dynamic"), "keep denoised images in their range: no, by clipping, or by a quantile"
    )
    threshold_quantile: float = real(
        0.995, 0.5, 1.0, "the quantile, at least the median", given("sampling.thresholding", "dynamic")
    )
    tolerance: float = real(1e-5, *_TOLERANCE, "error of a step, relative and absolute", _ADAPTIVE, **_SWEPT)
    sde_rtol: float = real(0.02, 1e-12, 1.0, "relative error of a step", _ADAPTIVE_SDE, **_SWEPT)
    sde_atol: float = real(0.0078, 1e-12, 1.0, "absolute error of a step", _ADAPTIVE_SDE, **_SWEPT)
    joint_steps: bool = flag(False, "the same steps for all samples of a batch", _ADAPTS, **_SWEPT)
    max_steps: int = integer(4096, 1, 10**7, "attempted steps after which it gives up", _ADAPTS, **_SWEPT)
    seed: int = integer(-1, -1, 2**32 - 1, "of the samples; -1 for the run's own", _ALWAYS)
    first: int = integer(0, 0, 2 * 10**9, "index of the first sample in the stream of its seed", _ALWAYS)
    num_samples: int = integer(64, 1, MAX_EXAMPLES, "how many samples", _ALWAYS, instead=("pareto", "evaluation"))
    batch_size: int = integer(64, 1, MAX_BATCH, "samples at a time, over all devices and hosts", _ALWAYS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pareto(Group):
    """--mode=pareto: every solver on every grid at every number of evaluations."""

    solvers: tuple[str, ...] = several(
        ("dpm_solver_2m", "unipc_2", "unipc_3", "heun", "ddim", "sde_dpm_solver_2m"),
        Choice(names=(*NOISY, *NOISELESS)),
        (1, len(NOISY) + len(NOISELESS)),
        "predictors of a fixed number of steps",
        distinct=True,
    )
    grids: tuple[str, ...] = several(
        *(("log_snr", "edm", "uniform"), Choice(names=GRIDS), (1, len(GRIDS))), "spacings of the times", distinct=True
    )
    evals: tuple[int, ...] = several(
        *((5, 8, 12, 16, 24, 32, 64), Integer(low=3, high=MAX_LEVELS), (1, 100)),
        "evaluations of the network per sample",
        distinct=True,
    )
    num_samples: int = integer(1000, 2, MAX_EXAMPLES, "samples per setting")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Group):
    """--mode=plan."""

    chip: str = choice(
        ("v4", "v5e", "v5p", "v6e", "a100", "h100", "cpu"), "what will train; cpu for this machine", default="v5e"
    )
    topology: str = text(
        "", r"(\d{1,4}x\d{1,4}(x\d{1,4})?)?", "a grid such as 2x2 or 2x2x1, or nothing",
        "TPUs to compile for without having them (needs libtpu); empty for this machine",
    )  # fmt: skip
    headroom: float = real(0.1, 0.0, 0.99, "share of the memory that is to stay free")


_ON_GRID = SCORE & unless("likelihood.num_steps", 0)
_PROBES = unless("likelihood.num_probes", 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Group):
    """The held-out likelihood and its bounds."""

    t_min: float = real(1e-5, *_TIME, "time at which the data enter the flow", SCORE)
    decoder: bool = flag(False, "noise the data as at t_min and add a decoder: a bound on the data themselves", SCORE)
    num_steps: int = integer(0, 0, MAX_LEVELS, "steps of a fixed grid; 0 for the adaptive solver", SCORE)
    tolerance: float = real(
        *(1e-5, *_TOLERANCE, "error of a step of the adaptive solver, relative and absolute"),
        when=SCORE & given("likelihood.num_steps", 0),
    )
    grid: str = choice(GRIDS, "spacing of the times of the fixed grid", _ON_GRID, default="log_snr")
    order: int = integer(4, 1, 5, "order of the predictor on the fixed grid", _ON_GRID)
    num_probes: int = integer(1, 0, 10_000, "Hutchinson probes per example; 0 for the exact trace", SCORE)
    probe_kind: Literal["rademacher", "gaussian"] = choice(
        ("rademacher", "gaussian"), "distribution of the probes", SCORE & _PROBES
    )
    fresh_probes: bool = flag(True, "on a fixed grid new probes at each time, not the same at all", _ON_GRID & _PROBES)
    dequantization: str = choice(
        ("uniform", "variational", "truncated_normal"),
        "uniform noise; trained noise, after --mode=train_dequantizer; or the noise of t_min within the bins, for "
        "objective.levels=midpoints, with a bound that has a decoder over the levels",
    )
    num_dequantizations: int = integer(1, 1, 10_000, "noise draws per image; their log-likelihoods are averaged")
    importance_weighted: bool = flag(
        *(False, "average their likelihoods instead: a closer bound"),
        when=unless("likelihood.num_dequantizations", 1),
    )
    budget_examples: int = integer(
        64, 0, MAX_EXAMPLES, "first examples that measure the solver's error; 0 for none", SCORE
    )
    noise_levels: int = integer(20, 0, 10_000, "levels by which the bits and the loss are reported; 0 for none", SCORE)
    bound_times: int = integer(
        0, 0, 100_000, "noise levels per example for the bound; 0 for no bound", SCORE, even=True
    )
    num_weights: int = integer(100, 1, 10**6, "importance weights per image for the bound", given("model.name", "vae"))
    chain_terms: int = integer(
        *(0, 0, MAX_LEVELS, "steps drawn per image for the bound of a chain, in pairs; 0 for all steps"),
        even=True,
        when=CHAIN,
    )
    num_examples: int = integer(0, 0, MAX_EXAMPLES, "first examples of the test split; 0 for all")
    flow_examples: int = integer(
        *(0, 0, MAX_EXAMPLES, "first of them that the flow is solved for, which costs more than a bound; 0 for all"),
        SCORE,
    )
    batch_size: int = integer(128, 1, MAX_BATCH, "examples at a time, over all devices and hosts")


_COMPARED = unless("evaluation.num_samples", 0)
_OWN_REFERENCE = _COMPARED & given("evaluation.reference", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Open):
    """The metrics and checkpoints of --mode=eval, and the data of --mode=stats."""

    checkpoints: str = text(
        "newest",
        r"\s*(newest|best|all|\d{0,10}\s*:\s*\d{0,10}|\d{1,10}(\s*,\s*\d{1,10})*)\s*",
        "newest, best, all, a range such as 1000:5000, or steps such as 1000,2000",
        "which checkpoints; the best of what was evaluated before, else by the loss in training",
    )
    best_by: str = choice(
        ("", "loss", "bits_per_dim", "nats_per_example", *METRICS, "precision", "recall", "density", "coverage"),
        "what tells the best; empty for the first of the metrics, or loss without any",
    )
    likelihood: bool = flag(False, "bits/dim too, as config.likelihood says")
    num_samples: int = integer(
        *(0, MIN_SAMPLES, MAX_EXAMPLES),
        "samples, drawn as config.sampling says, to be compared with data",
        or_zero=True,
    )
    metrics: tuple[str, ...] = several(
        *((), Choice(names=METRICS), (0, len(METRICS))),
        "what is measured of them; empty for frechet, kid, precision_recall of images, the last two of points",
        distinct=True,
        when=_COMPARED,
    )
    extractor: str = choice(
        *(EXTRACTORS, "what makes features of images", _COMPARED),
        given=frozenset({"images", "shape", "num_levels", "weights"}),
    )
    weights: str = path("", "file of the extractor's weights, where they do not come with the package", _COMPARED)
    reference: str = path("", "statistics (.npz) of what to compare with; empty for WORKDIR/statistics.npz", _COMPARED)
    reference_split: str = choice(("train", "test"), "the split of which those in WORKDIR are", _OWN_REFERENCE)
    reference_examples: int = integer(0, 0, MAX_EXAMPLES, "first examples of that split; 0 for all", _OWN_REFERENCE)
    keep_features: int = integer(
        10_000, 0, 10**7, "features kept beside the moments, for metrics that compare examples", _COMPARED
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Group):
    """--mode=export: the model as a folder that can be handed on."""

    program: str = choice(
        ("none", "sampler", "likelihood", "score"),
        "a program beside the parameters that runs without this package, as config.sampling or config.likelihood says",
    )

    average_only: bool = flag(
        False, "store the averaged parameters alone, which samples, measurements and trainings from the model need"
    )

    dtype: str = choice(
        ("float32", "float16"),
        "the type in which parameters are stored; float16 takes half of the room and rounds them by up to 0.05 %",
    )

    license: str = text(
        "unknown", r"[a-z0-9][a-z0-9.+-]{0,63}", "an identifier such as apache-2.0 or cc-by-4.0, other or unknown",
        "the license of the model in its card",
    )  # fmt: skip
