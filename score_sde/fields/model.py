"""The fields of the network and of the data."""

import dataclasses

from score_sde.fields.conditions import given, unless
from score_sde.fields.kinds import Integer, Real
from score_sde.fields.lines import Open, choice, flag, integer, path, real, several

MAX_WIDTH = 2**16  # channels or units; two such layers have 4e9 weights between them
MAX_SIDE = 2**16  # pixels
MAX_CLASSES = 100_000
_MAX_LEVELS = 12  # an image of the largest side then has 16 pixels per side
_ACTIVATIONS = ("elu", "relu", "lrelu", "swish")
_WIDTH, _SIDE = Integer(low=1, high=MAX_WIDTH), Integer(low=1, high=MAX_SIDE)


_NCSNPP, _VAE = given("model.name", "ncsnpp"), given("model.name", "vae")  # ddpm fixes blocks and pyramids
_UNET, _EMBEDS = given("model.name", "ncsnpp", "ddpm"), given("model.name", "ncsnpp", "ddpm", "mlp")
_EDM2, _MAPS = given("model.name", "edm2"), given("model.name", "ncsnpp", "ddpm", "edm2")
_BLOCKS = given("model.name", "ncsnpp", "ddpm", "mlp", "edm2")
_NCSN = given("model.name", "ncsn", "ncsnv2_64", "ncsnv2_128", "ncsnv2_256")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Open):
    """The network. Each takes its own fields; ddpm fixes its blocks and pyramids."""

    name: str = choice(
        ("ncsnpp", "ddpm", "edm2", "ncsn", "ncsnv2_64", "ncsnv2_128", "ncsnv2_256", "mlp", "vae"),
        "the network: mlp for vectors, ncsnpp, ddpm or edm2 for series, images and volumes of any size, vae for an "
        "encoder and decoder without a score, the others for images",
        given=frozenset({"event_shape", "num_classes", "rngs", "key"}),
    )
    features: int = integer(
        128, 1, MAX_WIDTH, "channels at full resolution; hidden width of the mlp", unless("model.name", "vae")
    )
    channel_multipliers: tuple[int, ...] = several(
        *((1, 2, 2, 2), Integer(low=1, high=1024), (1, _MAX_LEVELS)),
        "channels per level, as multiples of features",
        when=_MAPS,
    )
    num_blocks: int = integer(4, 1, 256, "residual blocks per level, or of the mlp", _BLOCKS)
    attention_resolutions: tuple[int, ...] = several(
        *((16,), _SIDE, (0, _MAX_LEVELS)),
        "heights (of a series, lengths) of the feature maps with self-attention",
        _MAPS,
        distinct=True,
    )
    attention_every_block: bool = flag(False, "on the way up attention after every block, not once per level", _UNET)
    dropout: float = real(0.1, 0.0, 0.99, "share of the values inside a block that training sets to 0", _BLOCKS)
    embedding: str = choice(("positional", "fourier", "none"), "how the noise condition becomes a vector", _EMBEDS)
    fourier_scale: float = real(
        *(16.0, 1e-3, 1e3, "standard deviation of the frequencies; EDM2 takes 0.25, with log s/m as the condition"),
        when=_BLOCKS & (given("model.embedding", "fourier") | _EDM2),
    )
    num_classes: int = integer(
        *(0, 0, MAX_CLASSES, "classes of a network with conditioning.classes; 0 for the number in the data"),
        when=_BLOCKS & given("conditioning.classes", True),
    )
    activation: str = choice(_ACTIVATIONS, "the nonlinearity", unless("model.name", "edm2"), default="swish")
    resblock_type: str = choice(("biggan", "ddpm"), "resampling inside residual blocks, or between them", _NCSNPP)
    resample_with_conv: bool = flag(
        *(True, "a convolution at every resampling"),
        when=_UNET & (given("model.resblock_type", "ddpm") | given("model.name", "ddpm")),
    )
    fir: bool = flag(False, "filter when resampling", _NCSNPP)
    fir_kernel: tuple[int | float, ...] = several(
        *((1, 3, 3, 1), Real(low=0.0, high=1e3), (2, 16)),
        "weights of the filter, which are scaled to sum 1",
        when=_NCSNPP & given("model.fir", True),
    )
    progressive: str = choice(("none", "output_skip", "residual"), "the output pyramid", _NCSNPP)
    progressive_input: str = choice(("none", "input_skip", "residual"), "the input pyramid", _NCSNPP)
    progressive_combine: str = choice(
        ("sum", "cat"),
        "how the input pyramid joins the trunk",
        when=_NCSNPP & given("model.progressive_input", "input_skip"),
    )
    input_frequencies: tuple[int, ...] = several(
        *((), Integer(low=-4, high=12), (0, 8)),
        "the image enters with sin and cos of 2^n 2 pi x beside it, for these n; 6 and 7 show 256 gray levels",
        when=_UNET,
        distinct=True,
        or_empty=True,
    )
    damped_waves: bool = flag(
        False,
        "waves fade where noise hides them, by exp(-(2^n 2 pi sigma)^2 / 2), so that its derivatives are of use",
        _UNET & unless("model.input_frequencies", ()),
    )
    patch_size: int = integer(
        1, 1, 16, "pixels per side of a square that the network takes for one pixel, with more channels", _UNET
    )
    skip_rescale: bool = flag(True, "divide residual sums by sqrt 2", _NCSNPP)
    init_scale: float = real(0.0, 0.0, 10.0, "initial scale of each branch's last layer", _NCSNPP)
    normalization: str = choice(
        ("InstanceNorm", "InstanceNorm++", "VarianceNorm", "GroupNorm"),
        "the normalization; ncsn has InstanceNorm++ alone",
        default="InstanceNorm++",
        when=_NCSN,
    )
    interpolation: str = choice(("bilinear", "nearest_neighbor"), "the interpolation", _NCSN)
    pytorch: bool = flag(False, "compute what the PyTorch releases compute, which differs a little", _NCSN)
    dtype: str = choice(
        ("float32", "bfloat16"),
        "what convolutions multiply in; all else stays in float32",
        when=unless("model.name", "mlp", "vae"),
    )
    remat: bool = flag(False, "compute blocks again in the backward pass: less memory, a third more time", _MAPS)
    latent_dim: int = integer(16, 1, MAX_WIDTH, "latent variables", _VAE)
    widths: tuple[int, ...] = several(
        *((256,), _WIDTH, (0, 64)), "widths of the encoder's dense layers; the decoder has them in reverse", _VAE
    )
    channels: tuple[int, ...] = several(
        *((), _WIDTH, (0, _MAX_LEVELS)),
        "channels of convolutions of stride 2 before the dense layers, for images",
        when=_VAE,
    )
    variance: str = choice(("pixel", "scalar"), "a variance of the decoder for every value, or one", _VAE)
    # Data have a width of about 1, so a floor of 1 already leaves nothing to learn.
    min_std: float = real(1e-3, 1e-6, 1.0, "added to the decoder's standard deviations", _VAE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Open):
    """The data."""

    name: str = choice(
        (
            *("digits", "mnist", "fashion_mnist", "cifar10", "array"),
            *(f"toy:{name}" for name in ("checkerboard", "moons", "rings", "gaussians", "swissroll")),
        ),
        "the data set: a name, or tfds:NAME, npz:PATH, folder:PATH, arrayrecord:PATH; array for one that score_sde.fit "
        "was given",
        default="cifar10",
        prefixes=("tfds:", "npz:", "folder:", "arrayrecord:"),
        given=frozenset({"split", "data_dir"}),
    )
    shape: tuple[int, ...] = several(
        (),
        _SIDE,
        (3, 3),
        "height, width and channels; empty for those of the data, which must be at hand",
        or_empty=True,
    )
    data_dir: str = path("", "where prepared data sets lie; empty for the default directory")
    centered: bool = flag(True, "pixels scaled to [-1, 1], else to [0, 1]")
    standardize: str = choice(
        ("none", "columns"),
        "continuous data as they are, or each column of their last axis (of a table a column, of a series or an image "
        "a channel) with the mean 0 and the standard deviation 1 of the training split; samples and likelihoods are in "
        "the units of the data",
    )
    random_flip: bool = flag(False, "mirror training images left-right half of the time")
    workers: int = integer(0, 0, 256, "processes per host that read batches; they pay where images must be decoded")
    prefetch: int = integer(
        2, 0, 1000, "batches (times steps_per_dispatch) kept ready in the memory of the devices; 0 reads when asked"
    )
