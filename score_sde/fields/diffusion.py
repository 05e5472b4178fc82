"""The fields of the devices, of the diffusion, and of its parameterization by the network."""

import dataclasses
from typing import ClassVar

from score_sde.fields.conditions import When, given, unless
from score_sde.fields.lines import Group, Open, choice, flag, integer, real

SCORE = unless("model.name", "vae")  # a vae has no score
CHAIN = unless("sde.schedule", "continuous")
BY_NUMBER = ("level", "descending_level")  # noise conditions by level number
_EDM, _NOT_EDM = given("parameterization.output", "edm"), unless("parameterization.output", "edm")
_VP, _VE, _VDM = given("sde.name", "vp", "subvp"), given("sde.name", "ve"), given("sde.name", "vdm")
_ENDS = given("sde.name", "rectified_flow", "cosine", "sigmoid")

MAX_LEVELS = 100_000
GRIDS = ("uniform", "quadratic", "log_snr", "edm")
_MAX_DEVICES = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Top(Group):
    """The fields that every mode reads."""

    seed: int = integer(42, 0, 2**32 - 1, "root of every random number: initialization, training, sampling, likelihood")
    ema_width: float = real(
        0.0,
        *(0.001, 0.28),  # a plain mean of all steps has 0.289
        "which average of the parameters is sampled and measured: 0 the one that was trained along, else the "
        "power-function average of this relative width, put together from the snapshots of optim.ema_widths",
        or_zero=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh(Group):
    """The devices of a run, a grid of data times fsdp that share every batch."""

    data: int = integer(0, 0, _MAX_DEVICES, "devices that each hold the whole state; 0 for as many as there are")
    fsdp: int = integer(1, 0, _MAX_DEVICES, "devices that split parameters, averages and moments; 0 for as many")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion(Open):
    """The forward diffusion of the data."""

    when: ClassVar[When] = SCORE

    name: str = choice(
        ("vp", "subvp", "ve", "vdm", "rectified_flow", "cosine", "sigmoid", "edm"),
        "the SDE; vdm, cosine and sigmoid are variance preserving with a log-SNR that falls linearly, along a quarter "
        "of a circle, and as a logistic curve; rectified_flow goes straight from data to noise; edm adds noise evenly",
        given=frozenset(),
    )
    # At t = 1 the weight of the data is exp(-(beta_min + beta_max) / 4), which underflows float32 from a sum of 349.3.
    beta_min: float = real(0.1, 1e-6, 349.0, "rate at t = 0", _VP)
    beta_max: float = real(20.0, 1e-6, 349.0, "rate at t = 1; beyond, no float32 holds what data are left", _VP)
    sigma_min: float = real(0.01, 1e-6, 1e6, "noise at t = 0; values of size 1 have no digits below 1e-6", _VE)
    sigma_max: float = real(
        *(50.0, 1e-6, 1e6, "noise at t = 1, about the largest distance between two examples"),
        when=given("sde.name", "ve", "edm"),
    )
    # Below float32's least number lies the squared noise of a log-SNR beyond 87, or the squared weight of the data.
    log_snr_max: float = real(
        13.3, -80.0, 80.0, "log(m^2 / s^2) at t = 0; 13.3 is a sixth of a bin of 256 levels", _VDM
    )
    log_snr_min: float = real(-5.0, -80.0, 80.0, "log(m^2 / s^2) at t = 1, below log_snr_max", _VDM)
    end: float = real(1e-3, 1e-6, 0.5, "weight of the data at t = 1; at 0 the SDE would have no finite drift", _ENDS)
    schedule: str = choice(
        ("continuous", "linear", "cosine", "quad", "const", "jsd", "geometric", "uniform"),
        "continuous, or the chain of N = parameterization.num_scales levels to train and sample on: for vp linear (the "
        "SDE's own), cosine, quad, const or jsd, with betas from beta_min / N to beta_max / N; for ve geometric (its "
        "own) or uniform",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameterization(Group):
    """The network's prediction target and noise condition."""

    when: ClassVar[When] = SCORE

    output: str = choice(
        ("noise", "score", "data", "v", "edm", "velocity", "levels"),
        "what the network predicts; velocity is the path's, m' x_0 + s' z; levels are logits of the gray levels of "
        "every value, given the others",
    )
    data_std: float = real(
        *(0.5, 1e-6, 1e6, "standard deviation of the (scaled) data, by which inputs are scaled"),
        when=given("parameterization.scale_input", True) | _EDM | given("objective.weighting", "edm"),
    )
    scale_input: bool = flag(False, "divide the inputs by their standard deviation; edm always does", _NOT_EDM)
    scale_by_sigma: bool = flag(
        True, "the network predicts the score times s", given("parameterization.output", "score")
    )
    condition_on: str = choice(
        ("time", "log_time", "log_noise", *BY_NUMBER),
        "how the network is told the noise: time (999 t), log_time, log_noise (log s/m), or the number of the level, "
        "from the least noise (level) or from the most (descending_level); log_noise for edm",
        when=_NOT_EDM,
    )
    num_scales: int = integer(
        *(1000, 2, MAX_LEVELS),
        "noise levels of a chain, of times=levels, and of a network that is told their number",
        when=CHAIN
        | given("objective.times", "levels")
        | given("parameterization.condition_on", *BY_NUMBER)
        | given("model.name", "ncsn"),
    )
    variances: str = choice(
        ("small", "large", "learned"),
        "variances of the steps down a chain, as those of the posterior (small), of the "
        "transition (large), or between them, value by value, as a second output of the network says (learned)",
        when=given("objective.kind", "bound"),
    )
