"""The rows: published results, and short runs on the digits, each with its protocol and tolerance.

Likelihoods are in bits/dim on the test split. The tables are from Song et al. 2021, *Score-Based Generative Modeling
through Stochastic Differential Equations* (arXiv 2011.13456, tables 2 and 3), and Song et al. 2021, *Maximum Likelihood
Training of Score-Based Diffusion Models* (arXiv 2101.09258, the table of likelihoods and FID).
"""

import dataclasses
import fnmatch
from collections.abc import Iterator

from score_sde.errors import UserError, nearest

SNAPSHOT = 50_000  # steps between published checkpoints, and the step of number 1
STEPS = {False: 1_300_000, True: 950_000}  # of training: plain and deep networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A published file: ``checkpoint_26.pth`` of PyTorch or ``checkpoint_26`` of Flax, in a folder of its model."""

    folders: tuple[str, ...]  # possible names
    number: int | None  # None for the smallest number in the folder, the best by FID in training

    @property
    def files(self) -> str:
        """The name of the file."""
        if self.number is None:
            return "the checkpoint_N.pth (PyTorch) or checkpoint_N (Flax) with the smallest N"
        return f"checkpoint_{self.number}.pth (PyTorch) or checkpoint_{self.number} (Flax)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One number and the settings to measure it again."""

    name: str
    config: str  # below configs/, without its ending
    checkpoint: Checkpoint | None  # None for a model trained first, as configured
    run: str  # directory of the run, shared by rows of the same model
    what: str  # a name in QUANTITIES
    settings: tuple[str, ...]  # overrides of the configuration, NAME=VALUE
    expected: float
    tolerance: float
    reason: str  # reason for the tolerance
    source: str


#: The measurable quantities and their settings.
QUANTITIES = {
    "nll": "bits/dim of the test split by the probability flow, uniform dequantization",
    "bound": "upper bound on the bits/dim of the test split, uniform dequantization",
    "nll_variational": "bits/dim by the probability flow, with a dequantizer that is trained here first",
    "bound_variational": "upper bound on the bits/dim, with a dequantizer that is trained here first",
    "fid_pc": "Fréchet distance of samples of the configured sampler to the training split",
    "fid_ode": "Fréchet distance of samples along the probability flow to the training split",
    "is": "inception score of samples of the configured sampler",
    "fid": "Fréchet distance of samples to the training split",
}

_NLL = (
    *("likelihood.tolerance=1e-5", "likelihood.num_steps=0", "likelihood.num_probes=1", "likelihood.decoder=False"),
    *("likelihood.budget_examples=0", "likelihood.noise_levels=0"),
)
_BOUND = ("likelihood.bound_times=1000",)
_SAMPLES = (
    *("evaluation.num_samples=50000", "sampling.num_samples=50000", "sampling.batch_size=1024"),
    *("evaluation.metrics=('frechet','inception_score')", "evaluation.extractor=inception-2015"),
    *("evaluation.keep_features=0", "evaluation.reference_split=train"),
)
_PC = (*_SAMPLES, "sampling.denoising=mean")
_ODE = (*_SAMPLES, "sampling.predictor=adaptive", "sampling.corrector=none", "sampling.tolerance=1e-5")
_VARIATIONAL = ("dequantizer.name=flowpp", "likelihood.dequantization=variational")

# Per quantity: tolerance relative to the value, at least, and why.
_TOLERANCES = {
    "nll": (0.0, 0.02, "rounding to 0.01, and one draw of noise and probes per image where the papers average five"),
    "bound": (0.0, 0.03, "rounding to 0.01, and the draws of times and noise"),
    **dict.fromkeys(
        ("nll_variational", "bound_variational"),
        (0.0, 0.05, "as without a dequantizer, and another training of that: an allowance, unmeasured"),
    ),
    "fid_pc": (0.05, 0.15, ""),
    "is": (0.0, 0.25, ""),
}
_EXTRACTOR = (
    "samples (table 1 of 2011.13456 has standard deviations of 0.01 to 0.15 over five runs), and an allowance, not "
    "measured, for the extractor: the papers' is that of TF-GAN, this one has the weights of 2015 in JAX"
)

# Columns as in the papers; fid_pc and is at the best checkpoint by FID, nll and fid_ode at the last.
_SCORE_SDE = """
config                                nll   fid_ode  fid_pc  is
vp/ddpm/cifar10                       3.28  3.37     -       -
vp/ddpm/cifar10_continuous            3.21  3.69     -       -
subvp/cifar10_ddpm_continuous         3.05  3.56     -       -
vp/cifar10_ddpmpp                     -     -        2.78    9.64
vp/cifar10_ddpmpp_continuous          3.16  3.93     2.55    9.58
subvp/cifar10_ddpmpp_continuous       3.02  3.16     2.61    9.56
vp/cifar10_ddpmpp_deep_continuous     3.13  3.08     2.41    9.68
subvp/cifar10_ddpmpp_deep_continuous  2.99  2.92     2.41    9.57
ve/cifar10_ncsnpp                     -     -        2.45    9.73
ve/cifar10_ncsnpp_continuous          -     -        2.38    9.83
ve/cifar10_ncsnpp_deep_continuous     -     -        2.20    9.89
"""
# data, deep or not, SDE, training; LW: weighted for likelihood, IS: importance-sampled times.
_SCORE_FLOW = """
data        depth  sde    training  nll   bound  nll_variational  bound_variational  fid
cifar10     -      vp     -         3.16  3.28   3.04             3.14               3.98
cifar10     -      vp     LW        3.06  3.18   2.94             3.03               5.18
cifar10     -      vp     LW+IS     2.95  3.08   2.83             2.94               6.03
cifar10     deep   vp     -         3.13  3.25   3.01             3.10               3.09
cifar10     deep   vp     LW        3.06  3.17   2.93             3.02               7.88
cifar10     deep   vp     LW+IS     2.93  3.06   2.80             2.92               5.34
cifar10     -      subvp  -         2.99  3.09   2.88             2.98               3.20
cifar10     -      subvp  LW        2.97  3.07   2.86             2.96               7.33
cifar10     -      subvp  LW+IS     2.94  3.05   2.84             2.94               5.58
cifar10     deep   subvp  -         2.96  3.06   2.85             2.95               2.86
cifar10     deep   subvp  LW        2.95  3.05   2.85             2.94               6.57
cifar10     deep   subvp  LW+IS     2.90  3.02   2.81             2.90               5.40
imagenet32  -      vp     -         3.90  3.96   3.84             3.91               8.34
imagenet32  -      vp     LW        3.91  3.96   3.86             3.92               17.75
imagenet32  -      vp     LW+IS     3.86  3.92   3.80             3.88               11.15
imagenet32  deep   vp     -         3.89  3.95   3.84             3.90               8.40
imagenet32  deep   vp     LW        3.91  3.96   3.86             3.92               17.73
imagenet32  deep   vp     LW+IS     3.85  3.92   3.79             3.88               11.20
imagenet32  -      subvp  -         3.87  3.92   3.82             3.88               8.71
imagenet32  -      subvp  LW        3.87  3.92   3.82             3.88               12.99
imagenet32  -      subvp  LW+IS     3.84  3.91   3.79             3.87               10.57
imagenet32  deep   subvp  -         3.86  3.91   3.81             3.87               8.87
imagenet32  deep   subvp  LW        3.88  3.93   3.83             3.88               16.55
imagenet32  deep   subvp  LW+IS     3.82  3.90   3.76             3.86               10.18
"""
_OBJECTIVES = {
    "-": ("", ()),
    "LW": ("_likelihood", ("objective.weighting=likelihood",)),
    "LW+IS": ("_likelihood_iw", ("objective.weighting=likelihood", "objective.times=importance")),
}

# Means over the seeds 42, 1 and 2. Another processor rounds differently, which acts like another seed. The standard
# deviations over seeds, pooled over the SDEs (6 degrees of freedom), are 0.011 bits/dim and 3.5. The tolerances are the
# 99 % prediction intervals for one more run, 3.71 sqrt(1 + 1/3) standard deviations.
_DIGITS = """
sde    nll    fid
vp     2.361  64.0
subvp  2.390  78.1
ve     2.294  66.0
"""
_SEEDS = "one run more: a 99 % prediction interval from the spread of three seeds, pooled over the three SDEs"
_SHORT = (
    *("training.num_steps=400", "optim.warmup=100", "training.eval_every=400", "training.checkpoint_every=400"),
    "training.sample_every=0",
)
_DIGITS_PROTOCOL: dict[str, tuple[tuple[str, ...], float, str]] = {
    "nll": (
        (
            *("likelihood.num_steps=24", "likelihood.num_probes=1", "likelihood.bound_times=0"),
            *("likelihood.budget_examples=0", "likelihood.noise_levels=0"),
        ),
        0.05,
        _SEEDS,
    ),
    "fid": (
        (
            *("evaluation.num_samples=1000", "evaluation.metrics=('frechet',)", "sampling.batch_size=250"),
            *("evaluation.extractor=classifier-digits", "sampling.predictor=dpm_solver_2m", "sampling.num_steps=24"),
            "sampling.grid=log_snr",
        ),
        15.0,
        _SEEDS,
    ),
}


def _parsed(table: str) -> Iterator[dict[str, str]]:
    header, *lines = (line.split() for line in table.strip().splitlines())
    for line in lines:
        yield dict(zip(header, line, strict=True))


def _tolerance(what: str, value: float) -> tuple[float, str]:
    relative, least, reason = _TOLERANCES["fid_pc" if what.startswith("fid") else what]
    return max(relative * value, least), reason or _EXTRACTOR


def _score_sde() -> Iterator[Row]:
    continuous = ("sde.schedule=continuous",)  # both use the flow of the continuous limit
    for line in _parsed(_SCORE_SDE):
        config = line.pop("config")
        folder, _, rest = config.partition("/")
        model = f"{rest.replace('/', '_')}_{folder}"
        last = STEPS["deep" in config] // SNAPSHOT
        for what, text in line.items():
            if text == "-":
                continue
            best = what in ("fid_pc", "is")
            settings = {"nll": _NLL, "fid_ode": _ODE}.get(what, _PC)
            tolerance, reason = _tolerance(what, float(text))
            yield Row(
                name=f"score_sde/{model}/{what}",
                config=config,
                checkpoint=Checkpoint(folders=(config,), number=None if best else last),
                run=f"score_sde/{model}_{'best' if best else 'last'}",
                what=what,
                settings=settings + (continuous if config == "vp/ddpm/cifar10" else ()),
                expected=float(text),
                tolerance=tolerance,
                reason=reason,
                source=f"Song et al. 2021, arXiv 2011.13456, table {3 if best else 2}",
            )


def _score_flow() -> Iterator[Row]:
    settings = {"nll": _NLL + _BOUND, "bound": _NLL + _BOUND, "fid": _ODE}
    settings |= {f"{what}_variational": _NLL + _BOUND + _VARIATIONAL for what in ("nll", "bound")}
    for line in _parsed(_SCORE_FLOW):
        data, depth, sde, training = (line.pop(name) for name in ("data", "depth", "sde", "training"))
        suffix, objective = _OBJECTIVES[training]
        deep = "_deep" if depth == "deep" else ""
        model = f"{data}{deep}_{sde}{suffix}"
        for what, text in line.items():
            tolerance, reason = _tolerance(what, float(text))
            yield Row(
                name=f"score_flow/{model}/{what}",
                config=f"score_flow/{sde}/{data}_ddpmpp{deep}_continuous",
                # The paper does not say whether these models saw mirrored images; the folders name both.
                checkpoint=Checkpoint(folders=(model, f"{model}_flip"), number=STEPS[bool(deep)] // SNAPSHOT),
                run=f"score_flow/{model}",
                what=what,
                settings=settings[what] + objective,
                expected=float(text),
                tolerance=tolerance,
                reason=reason,
                source="Song et al. 2021, arXiv 2101.09258, table of likelihoods and FID",
            )


def _digits() -> Iterator[Row]:
    for line in _parsed(_DIGITS):
        sde = line.pop("sde")
        for what, text in line.items():
            settings, tolerance, reason = _DIGITS_PROTOCOL[what]
            yield Row(
                name=f"digits/{sde}/{what}",
                config=f"{sde}/digits_ddpmpp",
                checkpoint=None,
                run=f"digits/{sde}",
                what=what,
                settings=_SHORT + settings,
                expected=float(text),
                tolerance=tolerance,
                reason=reason,
                source="measured with this program",
            )


#: All rows by name.
ROWS = {row.name: row for rows in (_digits(), _score_sde(), _score_flow()) for row in rows}


def select(pattern: str) -> list[Row]:
    """The rows that match a name, a pattern such as ``score_sde/*/nll``, or a prefix such as ``digits/vp``.

    Raises:
        UserError: If there is none, with the nearest name.

    >>> [row.expected for row in select("score_sde/cifar10_ncsnpp_*_ve/fid_pc")]
    [2.38, 2.2]
    """
    found = [row for row in ROWS.values() if fnmatch.fnmatchcase(row.name, pattern)]
    found = found or [row for row in ROWS.values() if row.name.startswith(pattern.rstrip("/") + "/")]
    if not found:
        raise UserError(
            f"Unknown row '{pattern}'.{nearest(pattern, ROWS)} There are {len(ROWS)}, under "
            f"{', '.join(sorted({name.split('/')[0] for name in ROWS}))}; expected one, or a "
            "pattern such as 'digits/*'."
        )
    return found
