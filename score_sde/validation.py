"""What the values of a configuration must be, beyond their types: ranges, and which go together."""

from score_sde.config import ConfigDict, at_least, below, choose
from score_sde.data.base import SPLITS
from score_sde.errors import UserError
from score_sde.metrics import METRICS
from score_sde.plan.chips import NAMES
from score_sde.sampling import GRIDS
from score_sde.training.ema import MAX_WIDTH, MAX_WIDTHS
from score_sde.training.objective import KINDS, VARIANCES

MIN_SAMPLES = 40  # the groups of an interval of a metric need two each


def check_values(config: ConfigDict) -> None:
    """Refuse values that are out of range, or that do not go together.

    Raises:
        UserError: With the field, its value and what was expected.
    """
    at_least(
        config,
        1,
        *("model.features", "model.num_blocks", "training.num_steps", "training.batch_size", "training.log_every"),
        *("training.eval_every", "training.checkpoint_every", "training.keep_checkpoints", "sampling.num_steps"),
        "training.accumulate",
        *("training.steps_per_dispatch", "sampling.num_samples", "sampling.batch_size", "likelihood.batch_size"),
        "likelihood.num_dequantizations",
        *("likelihood.num_weights", "objective.num_projections"),
    )
    at_least(config, 0, "data.workers", "data.prefetch", "training.sample_every")
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
    _check_pairs(config.likelihood)
    _check_objective(config)
    _check_averages(config.optim, config.training.log_every)
    _check_dequantizer(config)
    _check_evaluation(config)
    for group in ("training", "dequantizer"):
        _check_intervals(group, config[group])


def _check_pairs(likelihood: ConfigDict) -> None:
    for name, none in (("bound_times", "no bound"), ("chain_terms", "all steps")):
        if likelihood[name] % 2:
            raise UserError(
                f"config.likelihood.{name} is {likelihood[name]}; expected an even number, for they come in pairs, or "
                f"0 for {none}."
            )


def _check_objective(config: ConfigDict) -> None:
    objective, variances, autoencoder = config.objective, config.parameterization.variances, config.model.name == "vae"
    choose("objective", objective.kind, dict.fromkeys(KINDS))
    choose("variances", variances, VARIANCES)
    at_least(config, 0, "objective.hybrid")
    below(config, float("inf"), "objective.hybrid")
    on_bound, learned = objective.kind == "bound", variances == "learned"
    if autoencoder and not on_bound:
        raise UserError(
            f"config.model.name is vae and config.objective.kind is {objective.kind}, which trains a score; expected "
            "config.objective.kind=bound, or another network."
        )
    if on_bound and not autoencoder and config.sde.schedule == "continuous":
        raise UserError(
            "config.objective.kind is bound, and config.sde.schedule=continuous names no chain whose bound that could "
            "be; expected one, such as config.sde.schedule=linear, or config.objective.kind=denoising with "
            "config.objective.weighting=likelihood, which is the bound in continuous time."
        )
    if learned and (autoencoder or not on_bound):
        raise UserError(
            "config.parameterization.variances is learned, and nothing but the bound of a chain trains them; expected "
            "config.objective.kind=bound and a score network, or variances small or large."
        )
    if objective.hybrid and not (learned and on_bound):
        raise UserError(
            f"config.objective.hybrid is {objective.hybrid}, and the part of the bound in it trains learned variances "
            "alone; expected config.parameterization.variances=learned, or config.objective.hybrid=0.0."
        )
    if learned and config.likelihood.chain_terms:
        raise UserError(
            f"config.likelihood.chain_terms is {config.likelihood.chain_terms}, and the bound with learned variances "
            "takes all steps; expected config.likelihood.chain_terms=0."
        )
    if autoencoder and config.likelihood.dequantization != "uniform":
        raise UserError(
            f"config.likelihood.dequantization is {config.likelihood.dequantization}, which is trained against a "
            "score; expected uniform for config.model.name=vae."
        )


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


def _check_evaluation(config: ConfigDict) -> None:
    settings = config.evaluation
    at_least(config, 0, *(f"evaluation.{name}" for name in ("num_samples", "reference_examples", "keep_features")))
    choose("split", settings.reference_split, dict.fromkeys(SPLITS))
    for name in settings.metrics:
        choose("metric", name, METRICS)
    if 0 < settings.num_samples < MIN_SAMPLES:
        raise UserError(
            f"config.evaluation.num_samples is {settings.num_samples}; expected at least {MIN_SAMPLES}, for the "
            "intervals of the metrics, or 0 for no samples."
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
    if settings.get("sample_every"):
        check("sample_every", "steps_per_dispatch", "because these steps are one program")
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
