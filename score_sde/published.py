"""The building blocks of the published configurations; see the files in configs/.

A configuration is a network under a diffusion process on a data set::

    config = published.ncsnpp(published.ve(published.cifar10(), sigma_max=50.0))

The functions of data sets return a new configuration; the others change one and return it. Fields that none of them
sets keep their defaults in :func:`score_sde.config.default_config`. The networks and numbers come from Song et al. 2021
(arXiv 2011.13456), from Ho et al. 2020 (arXiv 2006.11239) for DDPM, from Song & Ermon 2020 (arXiv 2006.09011) for NCSN
and NCSNv2, and from Song et al. 2021 (arXiv 2101.09258) for :func:`score_flow`. Numbers of steps are rounded: 1.3
million, not 1,300,001.
"""

from typing import Any

from score_sde.config import ConfigDict, default_config


def cifar10() -> ConfigDict:
    """CIFAR-10, mirrored at random."""
    config = default_config()
    config.data.name = "cifar10"
    config.data.random_flip = True
    return config


def celeba() -> ConfigDict:
    """CelebA: the central 140x140 pixels of the aligned faces, resized to 64x64, in the folder ``data/celeba64``."""
    return _folder("celeba64", 64, random_flip=True)


def imagenet32() -> ConfigDict:
    """Downsampled ImageNet in the folder ``data/imagenet32``: neither mirrored nor trained with dropout."""
    config = _folder("imagenet32", 32, random_flip=False)
    config.model.dropout = 0.0
    return config


def large_images(name: str, size: int) -> ConfigDict:
    """LSUN (bedroom, church), CelebA-HQ or FFHQ, as squares in a folder such as ``data/bedroom256``.

    They are mirrored at random and learned in batches of 64, for longer.
    """
    config = _folder(f"{name}{size}", size, random_flip=True)
    config.training.num_steps = 2_400_000
    config.training.batch_size = 64
    config.training.checkpoint_every = 5000
    return config


def _folder(name: str, size: int, *, random_flip: bool) -> ConfigDict:
    """Color images prepared by the user; the stated shape lets the configuration build without them."""
    config = default_config()
    config.data.name = f"folder:data/{name}"
    config.data.shape = (size, size, 3)
    config.data.random_flip = random_flip
    return config


def vp(config: ConfigDict) -> ConfigDict:
    """The VP SDE on continuous times, sampled with Euler-Maruyama."""
    config.sde.name = "vp"
    config.sampling.predictor = "euler_maruyama"
    return config


def vp_levels(config: ConfigDict) -> ConfigDict:
    """The 1000 steps of DDPM, sampled ancestrally with the larger noise."""
    config.sde.name = "vp"
    config.sde.schedule = "linear"
    config.parameterization.condition_on = "level"
    config.objective.times = "levels"
    config.objective.t_min = 1 / config.parameterization.num_scales
    config.sampling.t_min = 1 / config.parameterization.num_scales
    config.sampling.predictor = "ancestral_large"
    return config


def subvp(config: ConfigDict) -> ConfigDict:
    """The sub-VP SDE on continuous times, sampled with Euler-Maruyama."""
    config.sde.name = "subvp"
    config.sampling.predictor = "euler_maruyama"
    return config


def ve(config: ConfigDict, *, sigma_max: float, num_scales: int = 1000, snr: float = 0.16) -> ConfigDict:
    """The VE SDE on continuous times, sampled with reverse diffusion and Langevin corrections.

    The data lie in [0, 1], the network predicts the score times ``sigma`` and sees ``log sigma`` through Fourier
    features, and the loss is half a sum over pixels.

    ``sigma_max`` is the largest distance between two training images, ``num_scales`` the number of sampling steps, and
    ``snr`` the signal-to-noise ratio of the corrections.
    """
    config.sde.name = "ve"
    config.sde.sigma_max = sigma_max
    config.data.centered = False
    config.parameterization.output = "score"
    config.parameterization.scale_by_sigma = True
    config.parameterization.condition_on = "log_noise"
    config.model.embedding = "fourier"
    config.objective.reduce_mean = False
    config.optim.ema_rate = 0.999
    config.sampling.predictor = "reverse_diffusion"
    config.sampling.corrector = "langevin"
    config.sampling.corrector_first = True
    config.sampling.snr = snr
    config.sampling.num_steps = num_scales
    config.sampling.t_min = 1e-5
    return config


def ve_levels(config: ConfigDict, **levels: Any) -> ConfigDict:
    """As :func:`ve`, but trained on a geometric sequence of noise levels, whose index the network sees."""
    ve(config, **levels)
    config.sde.schedule = "geometric"
    config.parameterization.num_scales = config.sampling.num_steps
    config.parameterization.condition_on = "descending_level"
    config.model.embedding = "positional"
    config.objective.times = "levels"
    config.objective.t_min = 1e-12  # stands for 0, where the smallest level is
    return config


def flow_matching(config: ConfigDict) -> ConfigDict:
    """The straight path, for its velocity, sampled with Heun's method (Lipman et al. 2022)."""
    config.sde.name = "rectified_flow"
    config.parameterization.output = "velocity"
    config.objective.weighting = "flow"
    config.objective.t_min = 1e-3  # where the noise of the path is that of VP at 1e-5
    config.likelihood.t_min = 1e-3
    config.sampling.predictor = "heun"
    config.sampling.num_steps = 25
    return config


def edm(config: ConfigDict) -> ConfigDict:
    """Preconditioning, lognormal noise levels and 18 steps of Heun's method in the noise (Karras et al. 2022)."""
    config.sde.name = "edm"
    config.sde.sigma_max = 80.0
    config.parameterization.output = "edm"
    config.objective.weighting = "edm"
    config.objective.times = "lognormal"
    config.sampling.predictor = "edm_heun"
    config.sampling.grid = "edm"
    config.sampling.num_steps = 18
    config.sampling.t_min = 2.5e-5  # a noise of 0.002
    return config


def edm2(config: ConfigDict) -> ConfigDict:
    """The magnitude-preserving network and training of Karras et al. 2024, after :func:`edm`.

    Theirs are the law of the noise levels, Adam's decay 0.99, the inverse root of the step in the learning rate, and
    gradients without a limit. Weights are of size 1, so the rate is too, compared with the one of other networks.
    """
    config.model.name = "edm2"
    config.model.fourier_scale = 0.25
    config.model.dropout = 0.0
    config.objective.uncertainty = True
    config.objective.time_mean = -0.4
    config.objective.time_std = 1.0
    config.optim.lr = 1e-2
    config.optim.beta2 = 0.99
    config.optim.schedule = "inverse_sqrt"
    config.optim.grad_clip = 0.0
    return config


def consistency(config: ConfigDict) -> ConfigDict:
    """Easy consistency tuning of a run of :func:`edm` (Geng et al. 2024, arXiv 2406.14548).

    Theirs are the law of the noise levels, the norm of the difference, the shrinking of the gap in stages, its divisor
    2 and the batch size.
    """
    config.objective.kind = "consistency"
    config.objective.weighting = "variance"  # not read: the loss has its own
    config.objective.time_mean = -1.1
    config.objective.time_std = 2.0
    config.objective.gap_divisor = 2.0
    config.training.batch_size = 128
    config.sampling.predictor = "consistency"
    config.sampling.num_steps = 2
    config.sampling.denoising = "mean"  # the end of the flow itself
    return config


def mean_flow(config: ConfigDict) -> ConfigDict:
    """Average velocities of the path of :func:`flow_matching` (Geng et al. 2025, arXiv 2505.13447).

    Theirs for CIFAR-10 are the share of examples with two times, the adaptive weight and its offset. The times are
    around the middle of the path. The network is told ``log(s / m)``, whose embedding changes slowly: the loss has its
    derivative by time, and with ``999 t`` little is learned.
    """
    config.parameterization.condition_on = "log_noise"
    config.objective.kind = "mean_flow"
    config.objective.weighting = "variance"  # not read: the loss has its own
    config.objective.times = "logit_normal"
    config.objective.time_mean = -0.4
    config.objective.time_std = 1.0
    config.objective.apart = 0.75
    config.objective.adaptive_power = 0.75
    config.objective.adaptive_offset = 1e-3
    config.sampling.predictor = "mean_flow"
    config.sampling.num_steps = 1
    config.sampling.t_min = 1e-5
    config.sampling.denoising = "mean"
    return config


def distillation(config: ConfigDict) -> ConfigDict:
    """A student of 8 steps of a run of :func:`edm` (Salimans & Ho 2022, arXiv 2202.00512).

    Theirs are the start of each student from its teacher, the halving, the learning rate that falls to 0, and the
    weights SNR + 1 of the data, which ``edm`` has in units of their deviation. EDM's output is their target ``v`` for
    data of unit variance. The times are those of EDM.
    """
    config.objective.kind = "distillation"
    config.objective.times = "uniform"  # not read: the student has its own
    config.objective.even_times = False
    config.objective.student_steps = 8
    config.objective.student_grid = "edm"
    config.objective.t_min = 2.5e-5  # a noise of 0.002
    config.optim.schedule = "cosine"
    config.optim.warmup = 0
    config.sampling.predictor = "ddim"
    config.sampling.num_steps = 8  # as many as the student has
    config.sampling.denoising = "none"
    return config


_FLOW_T_MIN = {"subvp": 1e-2}


def score_flow(config: ConfigDict) -> ConfigDict:
    """Sampling along the probability flow and, under the sub-VP SDE, times from 0.01 on; after :func:`subvp`.

    This is the baseline of the likelihood tables, weighted for samples; the rows weighted for likelihoods want
    ``--config.objective.weighting=likelihood``.
    """
    config.sampling.predictor = "adaptive"
    if t_min := _FLOW_T_MIN.get(config.sde.name):
        config.objective.t_min = config.sampling.t_min = config.likelihood.t_min = t_min
    return config


def ddpm(config: ConfigDict) -> ConfigDict:
    """The U-Net of DDPM for 32x32 images."""
    config.model.name = "ddpm"
    config.model.num_blocks = 2
    return config


def ddpm_256(config: ConfigDict) -> ConfigDict:
    """The U-Net of DDPM for 256x256 images, without dropout, and its smaller learning rate."""
    ddpm(config)
    config.model.dropout = 0.0
    config.model.channel_multipliers = (1, 1, 2, 2, 4, 4)
    config.optim.lr = 2e-5
    return config


def ddpmpp(config: ConfigDict) -> ConfigDict:
    """DDPM++ for 32x32 images."""
    config.model.name = "ncsnpp"
    return config


def ncsnpp(config: ConfigDict) -> ConfigDict:
    """NCSN++ for 32x32 and 64x64 images: DDPM++ with filtered resampling and a residual input pyramid."""
    config.model.name = "ncsnpp"
    config.model.fir = True
    config.model.progressive_input = "residual"
    return config


def deep(config: ConfigDict) -> ConfigDict:
    """Twice the residual blocks of DDPM++ or NCSN++, trained for fewer steps."""
    config.model.num_blocks = 8
    config.training.num_steps = 950_000
    return config


def ncsnpp_256(config: ConfigDict) -> ConfigDict:
    """NCSN++ for 256x256 images, with pyramids at input and output and without dropout."""
    config.model.name = "ncsnpp"
    config.model.dropout = 0.0
    config.model.channel_multipliers = (1, 1, 2, 2, 2, 2, 2)
    config.model.num_blocks = 2
    config.model.fir = True
    config.model.progressive_input = "input_skip"
    config.model.progressive = "output_skip"
    return config


def ncsnpp_1024(config: ConfigDict) -> ConfigDict:
    """NCSN++ for 1024x1024 images: narrower and deeper still, in batches of 8 and with a slower average."""
    ncsnpp_256(config)
    config.model.features = 16
    config.model.channel_multipliers = (1, 2, 4, 8, 16, 32, 32, 32)
    config.model.num_blocks = 1
    config.optim.ema_rate = 0.9999
    config.training.batch_size = 8
    return config


def ncsn(config: ConfigDict, *, sigma_max: float, num_scales: int, snr: float, num_corrections: int) -> ConfigDict:
    """NCSN on geometric noise levels: the score itself, a normalization per level, and no averaged parameters.

    Sampling is annealed Langevin dynamics.

    ``snr`` is ``sqrt(step size / 2) / sigma_min``, and every level has ``num_corrections`` Langevin steps.
    """
    ve_levels(config, sigma_max=sigma_max, num_scales=num_scales, snr=snr)
    config.parameterization.scale_by_sigma = False
    config.model.name = "ncsn"
    config.model.activation = "elu"
    config.optim.lr = 1e-3
    config.optim.warmup = 0
    config.optim.grad_clip = 0.0
    config.optim.ema_rate = 0.0
    config.sampling.predictor = "none"
    config.sampling.corrector = "annealed_langevin"
    config.sampling.corrector_first = False  # at the highest level the prior has nothing to correct
    config.sampling.num_corrections = num_corrections
    return config


def ncsnv2(config: ConfigDict, resolution: int, **levels: Any) -> ConfigDict:
    """NCSNv2: a network that is blind to the noise level and predicts the score times ``sigma``, averaged.

    The network is made for images of a resolution of 64, 128 or 256; the levels are as of :func:`ncsn`.
    """
    ncsn(config, **levels)
    config.parameterization.scale_by_sigma = True
    config.model.name = f"ncsnv2_{resolution}"
    config.optim.lr = 1e-4
    config.optim.ema_rate = 0.999
    return config
