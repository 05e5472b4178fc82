"""The fields of the network and of the data."""

import dataclasses

from score_sde.fields.kinds import Integer, Real, choice, flag, integer, path, real, several

MAX_WIDTH = 2**16  # channels or units; two layers of so many have 4e9 weights between them
MAX_SIDE = 2**16  # pixels
_MAX_LEVELS = 12  # an image of the largest side has 1 / 2^12 of it left: 16 pixels
_ACTIVATIONS = ("elu", "relu", "lrelu", "swish")
_WIDTH, _SIDE = Integer(low=1, high=MAX_WIDTH), Integer(low=1, high=MAX_SIDE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The network. Each takes the fields that it knows; ddpm fixes its blocks and pyramids."""

    name: str = choice(
        "ncsnpp",
        ("ncsnpp", "ddpm", "ncsn", "ncsnv2_64", "ncsnv2_128", "ncsnv2_256", "mlp", "vae"),
        "the network: mlp for vectors, vae for an encoder and decoder without a score, the others for images",
    )
    features: int = integer(128, 1, MAX_WIDTH, "channels at full resolution; hidden width of the mlp")
    channel_multipliers: tuple[int, ...] = several(
        *((1, 2, 2, 2), Integer(low=1, high=1024), (1, _MAX_LEVELS)), "channels per level, as multiples of features"
    )
    num_blocks: int = integer(4, 1, 256, "residual blocks per level")
    attention_resolutions: tuple[int, ...] = several(
        *((16,), _SIDE, (0, _MAX_LEVELS)), "heights of the feature maps with self-attention", distinct=True
    )
    attention_every_block: bool = flag(False, "on the way up attention after every block, not once per level")
    dropout: float = real(0.1, 0.0, 0.99, "share of the values inside a block that training sets to 0")
    embedding: str = choice("positional", ("positional", "fourier", "none"), "how the noise condition becomes a vector")
    fourier_scale: float = real(16.0, 1e-3, 1e3, "embedding=fourier: standard deviation of the frequencies")
    num_classes: int = integer(0, 0, 100_000, "classes of a class-conditional U-Net; 0 for none")
    activation: str = choice("swish", _ACTIVATIONS, "the nonlinearity")
    resblock_type: str = choice("biggan", ("biggan", "ddpm"), "resampling inside residual blocks, or between them")
    resample_with_conv: bool = flag(True, "resblock_type=ddpm: a convolution at every resampling")
    fir: bool = flag(False, "filter when resampling")
    fir_kernel: tuple[float, ...] = several(
        *((1, 3, 3, 1), Real(low=0.0, high=1e3), (2, 16)), "fir: weights of the filter, which are scaled to sum 1"
    )
    progressive: str = choice("none", ("none", "output_skip", "residual"), "the output pyramid")
    progressive_input: str = choice("none", ("none", "input_skip", "residual"), "the input pyramid")
    progressive_combine: str = choice("sum", ("sum", "cat"), "progressive_input=input_skip: how it joins the trunk")
    skip_rescale: bool = flag(True, "divide residual sums by sqrt 2")
    init_scale: float = real(0.0, 0.0, 10.0, "initial scale of each branch's last layer")
    normalization: str = choice(
        "InstanceNorm++", ("InstanceNorm", "InstanceNorm++", "VarianceNorm", "GroupNorm"), "ncsn*: the normalization"
    )
    interpolation: str = choice("bilinear", ("bilinear", "nearest_neighbor"), "ncsn*: the interpolation")
    pytorch: bool = flag(False, "ncsn*: compute what the PyTorch releases compute, which differs a little")
    dtype: str = choice("float32", ("float32", "bfloat16"), "what convolutions multiply in; all else stays in float32")
    remat: bool = flag(False, "compute blocks again in the backward pass: less memory, a third more time")
    latent_dim: int = integer(16, 1, MAX_WIDTH, "vae: latent variables")
    widths: tuple[int, ...] = several(
        *((256,), _WIDTH, (0, 64)), "vae: widths of the encoder's dense layers; the decoder has them in reverse"
    )
    channels: tuple[int, ...] = several(
        *((), _WIDTH, (0, _MAX_LEVELS)), "vae: channels of convolutions of stride 2 before the dense layers, for images"
    )
    variance: str = choice("pixel", ("pixel", "scalar"), "vae: a variance of the decoder for every value, or one")
    # Data are about as wide as 1, so a floor of 1 already leaves nothing to learn.
    min_std: float = real(1e-3, 1e-6, 1.0, "vae: added to the decoder's standard deviations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The data."""

    name: str = choice(
        "cifar10",
        (
            *("digits", "mnist", "fashion_mnist", "cifar10"),
            *(f"toy:{name}" for name in ("checkerboard", "moons", "rings", "gaussians", "swissroll")),
        ),
        "the data set: a name, or tfds:NAME, npz:PATH, folder:PATH, arrayrecord:PATH",
        prefixes=("tfds:", "npz:", "folder:", "arrayrecord:"),
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
    random_flip: bool = flag(False, "mirror training images left-right half of the time")
    workers: int = integer(0, 0, 256, "processes per host that read batches; they pay where images must be decoded")
    prefetch: int = integer(
        2, 0, 1000, "batches (times steps_per_dispatch) kept ready in the memory of the devices; 0 reads when asked"
    )
