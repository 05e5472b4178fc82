"""The border where a configuration becomes typed objects; below it nothing knows of configurations."""

import dataclasses
import functools

import jax
import optax
from jax.sharding import Mesh

from score_sde.chains import BETAS, DDPM, NCSN, SIGMAS, Chain
from score_sde.config import ConfigDict, at_least, below, build, check_fields, choose
from score_sde.distributed import make_mesh, state_sharding, with_sharding
from score_sde.errors import UserError
from score_sde.likelihood.dequantization import Quantization
from score_sde.models.registry import make_dequantizer, make_network
from score_sde.objectives import TIME_SAMPLERS, WEIGHTINGS, score_matching_loss
from score_sde.parameterization import CONDITIONS, PARAMETERIZATIONS, Parameterization, make_score_fn, thresholded
from score_sde.plan.chips import NAMES
from score_sde.processes import Process, ReverseProcess
from score_sde.sampling import GRIDS, Grid, edm_times, levels_of
from score_sde.sdes import SDE, VE, VP, SubVP
from score_sde.solvers import (
    CONTINUOUS,
    CORRECTORS,
    DETERMINISTIC,
    PREDICTORS,
    DPMSolverMultistep,
    PredictorCorrector,
    Solver,
    UniPC,
)
from score_sde.training.ema import MAX_WIDTH, MAX_WIDTHS
from score_sde.training.optim import make_optimizer
from score_sde.training.state import TrainState, create_state, state_of
from score_sde.training.step import TrainStep, make_train_step
from score_sde.typing import Dequantizer, LossFn, Network, Params, ScoreFn

SDES: dict[str, type[SDE]] = {"vp": VP, "subvp": SubVP, "ve": VE}
ADAPTIVE = ("adaptive", "adaptive_sde")  # predictors that are no steps: error control chooses these


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """All the objects of a run: what is diffused, how it is modelled, trained and sampled."""

    config: ConfigDict
    mesh: Mesh  # the devices
    event_shape: tuple[int, ...]
    quantization: Quantization
    dequantizer: Dequantizer | None  # None for uniform noise
    sde: SDE
    process: Process  # what is trained and sampled: the SDE, or a chain of which it is the limit
    network: Network
    parameterization: Parameterization
    loss_fn: LossFn
    tx: optax.GradientTransformation
    train_step: TrainStep
    solver: Solver | None  # None for the adaptive predictors
    times: Grid

    @classmethod
    def from_config(
        cls, config: ConfigDict, event_shape: tuple[int, ...], num_levels: int | None, *, mesh: Mesh | None = None
    ) -> "Experiment":
        """Build a run for data of the given event shape and number of grey levels (``None``: continuous).

        It runs on the devices of ``mesh``, by default all there are, laid out as ``config.mesh`` says.

        Raises:
            UserError: For unknown fields and names, and for values out of range.
        """
        check_fields(config)
        _check_values(config)
        mesh = make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp) if mesh is None else mesh
        sde = make_sde(config)
        process = make_process(config, sde)
        network = make_network(
            dict(config.model),
            event_shape,
            num_scales=config.parameterization.num_scales,
            centered=config.data.centered,
        )
        parameterization = _make_parameterization(config)
        objective = config.objective
        if objective.times == "importance" and process is not sde:
            raise UserError("config.objective.times=importance needs an SDE; set config.sde.schedule=continuous.")
        _check_levels(config, process)
        loss_fn = score_matching_loss(
            process,
            network,
            parameterization,
            times=build(
                choose("time sampler", objective.times, TIME_SAMPLERS),
                {"t0": objective.t_min, "num_levels": config.parameterization.num_scales, "sde": process},
            ),
            weighting=choose("weighting", objective.weighting, WEIGHTINGS),
            reduce_mean=objective.reduce_mean,
        )
        optim = {k: v for k, v in config.optim.items() if k == "ema_widths" or not k.startswith("ema")}
        tx = make_optimizer(num_steps=config.training.num_steps, **optim)
        if num_levels is None and config.sampling.thresholding != "none":
            raise UserError("Thresholding clips to the range of images; set config.sampling.thresholding=none.")
        quantization = Quantization(num_levels=num_levels, centered=config.data.centered)
        return cls(
            config=config,
            mesh=mesh,
            event_shape=event_shape,
            quantization=quantization,
            dequantizer=make_dequantizer(dict(config.dequantizer), event_shape, num_levels),
            sde=sde,
            process=process,
            network=network,
            parameterization=parameterization,
            loss_fn=loss_fn,
            tx=tx,
            train_step=make_train_step(
                loss_fn,
                tx,
                prepare=quantization.dequantize,
                ema_rate=config.optim.ema_rate,
                ema_warmup=config.optim.ema_warmup,
                accumulate=config.training.accumulate,
                mesh=mesh,
            ),
            solver=_make_solver(config),
            times=make_times(config, sde, process, grid=config.sampling.grid, num_steps=config.sampling.num_steps),
        )

    def init_state(self) -> TrainState:
        """The state at step 0."""
        return create_state(self.network, self.tx, self.config.seed, (1, *self.event_shape))

    def fresh_state(self, params: Params) -> TrainState:
        """The state at step 0 with given parameters."""
        return jax.jit(lambda p: state_of(p, self.tx, self.config.seed))(params)

    def abstract_state(self) -> TrainState:
        """Shapes and types of the state and where it lives, without computing or allocating anything."""
        shapes = jax.eval_shape(self.init_state)
        return with_sharding(shapes, state_sharding(self.mesh, shapes))

    def score_fn(self, params: Params) -> ScoreFn:
        """The score of the SDE's marginals under given parameters, without dropout."""
        return make_score_fn(self.network, self.parameterization, self.sde, params)

    def reverse(self, params: Params) -> ReverseProcess:
        """What the solver follows under given parameters."""
        score_fn = make_score_fn(self.network, self.parameterization, self.process, params)
        return self.process.reverse(self.in_range(score_fn), noise_scale=self.noise_scale)

    def in_range(self, score_fn: ScoreFn) -> ScoreFn:
        """The score that samplers follow: with ``sampling.thresholding``, one whose denoised samples are images."""
        kind, quantile = self.config.sampling.thresholding, self.config.sampling.threshold_quantile
        if kind == "none":
            return score_fn
        low = -1.0 if self.config.data.centered else 0.0
        quantile = quantile if kind == "dynamic" else None
        return thresholded(self.process, score_fn, low=low, high=1.0, quantile=quantile)

    @property
    def noise_scale(self) -> float:
        """0 where the sampler solves the probability flow, else ``sampling.noise_scale``."""
        flow = self.config.sampling.predictor in {*DETERMINISTIC, "adaptive"}
        return 0.0 if flow else self.config.sampling.noise_scale


def make_sde(config: ConfigDict) -> SDE:
    """The forward process that the configuration names."""
    return build(choose("SDE", config.sde.name, SDES), config.sde)


def make_process(config: ConfigDict, sde: SDE) -> Process:
    """The SDE, or the chain of ``parameterization.num_scales`` levels that ``sde.schedule`` names.

    Raises:
        UserError: For a schedule that the SDE is not the limit of.
    """
    name, n = config.sde.schedule, config.parameterization.num_scales
    if name == "continuous":
        return sde
    if config.sde.name == "vp":
        schedule = choose("schedule of the VP chain", name, {"continuous": None, **BETAS})
        betas = schedule(n, config.sde.beta_min / n, config.sde.beta_max / n)
        if not float(betas.max()) < 1.0:
            raise UserError(
                f"With config.parameterization.num_scales={n} levels a step of the {name} chain has variance "
                f"{float(betas.max()):g}; expected less than 1, so more than config.sde.beta_max levels."
            )
        return DDPM(betas=betas)
    if config.sde.name == "ve":
        sigmas = choose("schedule of the VE chain", name, {"continuous": None, **SIGMAS})
        return NCSN(sigmas=sigmas(n, config.sde.sigma_min, config.sde.sigma_max))
    raise UserError(f"config.sde.schedule is {name}, and no chain is named for {config.sde.name}; expected continuous.")


def _check_levels(config: ConfigDict, process: Process) -> None:
    """Refuse training times below the first level of a chain, which would be those of data without any noise."""
    if isinstance(process, DDPM) and round(config.objective.t_min * process.num_levels) < 1:
        raise UserError(
            f"config.objective.t_min is {config.objective.t_min:g}, and the first level of the chain is at "
            f"{1.0 / process.num_levels:g}; expected that (1 / config.parameterization.num_scales) or more."
        )


def make_times(config: ConfigDict, sde: SDE, process: Process, *, grid: str, num_steps: int) -> Grid:
    """A grid of times for sampling, or, of a chain, the levels nearest to one."""
    times = make_grid(config, sde, grid=grid, num_steps=num_steps, t_end=config.sampling.t_min)
    return levels_of(process, times) if isinstance(process, Chain) else times


def make_grid(config: ConfigDict, sde: SDE, *, grid: str, num_steps: int, t_end: float) -> Grid:
    """``num_steps`` steps from 1 to ``t_end``, spaced as the name says."""
    grids = {**GRIDS, "edm": functools.partial(edm_times, rho=config.sampling.rho)}
    return choose("grid", grid, grids)(sde, num_steps, t_end)


def make_predictor(name: str, sampling: ConfigDict) -> Solver:
    """The predictor of a name, with its numbers from the configuration."""
    predictor = choose("predictor", name, PREDICTORS)
    return build(predictor, sampling) if isinstance(predictor, type) else predictor()


def _make_parameterization(config: ConfigDict) -> Parameterization:
    fields = dict(config.parameterization)
    cls = choose("parameterization", fields.pop("output"), PARAMETERIZATIONS)
    choose("noise condition", fields["condition_on"], CONDITIONS)
    if config.parameterization.output == "edm":  # preconditioning fixes both
        fields |= {"scale_input": True, "condition_on": "log_noise"}
    return build(cls, fields)


def _make_solver(config: ConfigDict) -> Solver | None:
    sampling = config.sampling
    choose("thresholding", sampling.thresholding, {"none": 1, "static": 1, "dynamic": 1})
    choose("denoising", sampling.denoising, {"tweedie": 1, "mean": 1, "none": 1})
    corrector = None
    if sampling.corrector != "none":
        corrector = build(choose("corrector", sampling.corrector, {**CORRECTORS, "none": None}), sampling)
    choose("predictor", sampling.predictor, {**PREDICTORS, **dict.fromkeys(ADAPTIVE)})
    if config.sde.schedule != "continuous" and sampling.predictor in {*CONTINUOUS, *ADAPTIVE}:
        raise UserError(
            f"The predictor {sampling.predictor} follows a drift, and a chain (config.sde.schedule="
            f"{config.sde.schedule}) has none; expected one of {', '.join(sorted({*PREDICTORS} - CONTINUOUS))}."
        )
    if sampling.predictor in ADAPTIVE:
        if corrector is not None:
            raise UserError(
                f"The predictor {sampling.predictor} takes no corrector; set config.sampling.corrector=none."
            )
        return None
    predictor = make_predictor(sampling.predictor, sampling)
    if corrector is None:
        return predictor
    if isinstance(predictor, DPMSolverMultistep | UniPC):
        raise UserError(
            f"The predictor {sampling.predictor} goes on from its own past, and a corrector would move the sample away "
            "from it; set config.sampling.corrector=none, or take dpm_solver_2s."
        )
    return PredictorCorrector(
        predictor=predictor,
        corrector=corrector,
        num_corrections=sampling.num_corrections,
        corrector_first=sampling.corrector_first,
    )


def _check_values(config: ConfigDict) -> None:
    at_least(
        config,
        1,
        *("model.features", "model.num_blocks", "training.num_steps", "training.batch_size", "training.log_every"),
        *("training.eval_every", "training.checkpoint_every", "training.keep_checkpoints", "sampling.num_steps"),
        "training.accumulate",
        *("training.steps_per_dispatch", "sampling.num_samples", "sampling.batch_size", "likelihood.batch_size"),
        "likelihood.num_dequantizations",
    )
    at_least(config, 0, "data.workers", "data.prefetch")
    at_least(config, 2, "pareto.num_samples", "parameterization.num_scales")
    at_least(
        config,
        0,
        "seed",
        "model.num_classes",
        "sampling.num_corrections",
        *("likelihood.num_probes", "likelihood.num_examples", "likelihood.bound_times", "likelihood.num_steps"),
        *("likelihood.budget_examples", "likelihood.noise_levels", "likelihood.chain_terms"),
        *(f"{group}.keep_{what}" for group in ("training", "dequantizer") for what in ("every", "best")),
    )
    at_least(config, 0, "optim.lr", "optim.eps", "optim.weight_decay", "optim.warmup", "optim.ema_rate")
    at_least(config, 0, "optim.beta1", "optim.beta2", "model.dropout", "sampling.snr")
    at_least(config, 0, "sampling.noise_scale", "sampling.eta", "sampling.churn", "sampling.churn_min")
    at_least(config, 1, "sampling.rho", "sampling.max_steps", "likelihood.order")
    at_least(config, 1e-12, "sde.beta_min", "sde.sigma_min", "parameterization.data_std", "objective.t_min")
    at_least(config, 1e-12, "sampling.t_min", "sampling.tolerance", "likelihood.t_min", "likelihood.tolerance")
    at_least(config, 1e-12, "sampling.sde_rtol", "sampling.sde_atol")
    below(config, 1, "objective.t_min", "sampling.t_min", "likelihood.t_min", "model.dropout")
    below(config, 1, "optim.beta1", "optim.beta2", "optim.ema_rate", "plan.headroom")
    at_least(config, 0, "sampling.threshold_quantile", "plan.headroom")
    below(config, 1 + 1e-9, "sampling.threshold_quantile")
    below(config, 2**32, "seed")
    choose("schedule", config.optim.schedule, {"constant": 1, "cosine": 1})
    choose("probe kind", config.likelihood.probe_kind, {"rademacher": 1, "gaussian": 1})
    choose("dequantization", config.likelihood.dequantization, {"uniform": 1, "variational": 1})
    choose("grid", config.likelihood.grid, GRIDS)
    choose("chip", config.plan.chip, dict.fromkeys(NAMES))
    below(config, 6, "likelihood.order")
    at_least(config, 0, "mesh.data", "mesh.fsdp", "ema_width")
    below(config, MAX_WIDTH + 1e-9, "ema_width")
    multipliers = config.model.channel_multipliers
    if not multipliers or not all(isinstance(m, int) and m >= 1 for m in multipliers):
        raise UserError(f"config.model.channel_multipliers is {multipliers}; expected integers from 1, one per level.")
    for low, high in (("beta_min", "beta_max"), ("sigma_min", "sigma_max")):
        if not config.sde[low] < config.sde[high]:
            raise UserError(
                f"config.sde.{low} is {config.sde[low]} and config.sde.{high} is {config.sde[high]}; "
                "expected the first to be smaller."
            )
    for name, none in (("bound_times", "no bound"), ("chain_terms", "all steps")):
        if config.likelihood[name] % 2:
            raise UserError(
                f"config.likelihood.{name} is {config.likelihood[name]}; expected an even number, for they come in "
                f"pairs, or 0 for {none}."
            )
    _check_averages(config.optim, config.training.log_every)
    _check_dequantizer(config)
    for group in ("training", "dequantizer"):
        _check_intervals(group, config[group])


def _check_averages(optim: ConfigDict, log_every: int) -> None:
    widths, every = optim.ema_widths, optim.ema_snapshot_every
    good = all(isinstance(width, float) and 0.0 < width <= MAX_WIDTH for width in widths)
    if not good or len(set(widths)) < len(widths) or len(widths) > MAX_WIDTHS:
        raise UserError(
            f"config.optim.ema_widths is {widths}; expected at most {MAX_WIDTHS} different numbers above 0 and up to "
            f"{MAX_WIDTH}, such as (0.05, 0.10)."
        )
    if every < 0 or every % log_every:
        raise UserError(
            f"config.optim.ema_snapshot_every is {every}; expected a multiple of config.training.log_every, "
            f"{log_every}, or 0 for no snapshots."
        )
    if every and not widths:
        raise UserError(
            f"config.optim.ema_snapshot_every is {every} and there are no averages to take snapshots of; set "
            "config.optim.ema_widths=(0.05,0.10), or config.optim.ema_snapshot_every=0."
        )


def _check_dequantizer(config: ConfigDict) -> None:
    sizes = ("filters", "components", "blocks", "num_flows", "heads", "context_features", "num_steps", "batch_size")
    intervals = ("steps_per_dispatch", "accumulate", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints")
    at_least(config, 1, *(f"dequantizer.{name}" for name in (*sizes, *intervals)))
    at_least(config, 0, *(f"dequantizer.{name}" for name in ("dropout", "lr", "warmup", "ema_rate")))
    at_least(config, 1e-12, "dequantizer.t_min")
    below(config, 1, *(f"dequantizer.{name}" for name in ("dropout", "ema_rate", "t_min")))


def _check_intervals(group: str, settings: ConfigDict) -> None:
    def check(name: str, unit: str, reason: str) -> None:
        if settings[name] % settings[unit]:
            raise UserError(
                f"config.{group}.{name} is {settings[name]}; expected a multiple of config.{group}.{unit}, "
                f"{settings[unit]}, {reason}."
            )

    for name in ("num_steps", "log_every", "eval_every", "checkpoint_every"):
        check(name, "steps_per_dispatch", "because these steps are one program")
    check("eval_every", "log_every", "because both go into one line of metrics")
    check("checkpoint_every", "log_every", "so that resumed runs log the same means")
    if settings.keep_every:
        check("keep_every", "checkpoint_every", "because it chooses among these checkpoints")
    if settings.keep_best:
        check("checkpoint_every", "eval_every", "so that every checkpoint has a loss to be judged by")
    if settings.batch_size % settings.accumulate:
        raise UserError(
            f"config.{group}.batch_size is {settings.batch_size}; expected a multiple of config.{group}.accumulate, "
            f"{settings.accumulate}."
        )
