"""The blocks of a dilated RefineNet (Lin et al. 2017), as the NCSN family uses it.

    coarse ----> RCU x 2 --.
                            > MSF --> CRP --> RCU --> next refinement
    backbone --> RCU x 2 --'

RCU: residual convolution units; MSF: multi-scale fusion, which convolves every input, enlarges it to the size of the
finest and sums; CRP: chained residual pooling. A block receives a function ``normalize``, which it applies before its
convolutions: NCSNv2 passes the identity to its refinements, NCSN a norm conditional on the noise level. The conditional
classes differ from the others in their pooling, by the mean instead of the maximum, and in their names, which address
their parameters.
"""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.errors import unknown
from score_sde.fields import DEFAULTS
from score_sde.models.layers import Activation, Conv, Images
from score_sde.models.resampling import downsample

Maps = Float[Array, "_ _ _ _"]  # feature maps of any size and width
Normalize = Callable[[Array], Array]  # makes its own module in the block that calls it
Pool = Callable[[Array], Array]


def _pool(x: Images, combine: Callable[[Array, Array], Array], outside: float) -> Images:
    """Combine the 5x5 pixels around each pixel, one axis after the other.

    Shifted copies instead of a window reduction: on a CPU its gradient takes three to eight times as long.
    """
    for axis, size in ((1, x.shape[1]), (2, x.shape[2])):
        widths = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, widths, constant_values=outside)
        x = functools.reduce(combine, (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(5)))
    return x


def max_pool(x: Images) -> Images:
    """The largest of the 5x5 pixels around each pixel."""
    return _pool(x, jnp.maximum, -jnp.inf)


def mean_pool(x: Images) -> Images:
    """The mean of the 5x5 pixels around each pixel, where pixels beyond the border count as zeros."""
    return _pool(x, jnp.add, 0.0) / 25.0


def identity(x: Array) -> Array:
    """No normalization."""
    return x


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    """A bias within ``1 / sqrt(fan_in)`` of zero; its own shape does not determine the fan-in."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def conv3x3(x: Images, features: int, bias: bool = True, dilation: int = 1, exact: bool = False) -> Maps:
    """A 3x3 convolution of the given images with PyTorch's initial weights: uniform within ``1 / sqrt(fan_in)``.

    Call it inside a compact module, which then owns the convolution. An ``exact`` one stays in float32 where the others
    multiply in bfloat16: rounding accumulates along the chained pooling, and shows in the last layer.
    """
    convolution = Conv(
        features,
        use_bias=bias,
        kernel_dilation=dilation,
        dtype=jnp.float32 if exact else None,
        kernel_init=nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform"),
        bias_init=uniform_bias(9 * x.shape[-1]),
    )
    return convolution(x)


def aligned_weights(size: int, new_size: int) -> np.ndarray:
    """Linear interpolation as a matrix ``(new_size, size)`` that maps first to first and last to last pixel.

    >>> aligned_weights(2, 3)
    array([[1. , 0. ],
           [0.5, 0.5],
           [0. , 1. ]])
    """
    positions = np.arange(new_size) * (size - 1) / max(new_size - 1, 1)
    return np.maximum(1.0 - np.abs(positions[:, None] - np.arange(size)[None, :]), 0.0)


def resize(x: Images, shape: tuple[int, int], interpolation: str) -> Maps:
    """Enlarge images to a height and width.

    Pixels are areas (``bilinear``), or points whose corners stay in place (``bilinear_aligned``, ``align_corners`` in
    PyTorch), or repeated (``nearest_neighbor``).

    Raises:
        UserError: If the interpolation is unknown.
    """
    methods = {"bilinear": "linear", "nearest_neighbor": "nearest"}
    if interpolation == "bilinear_aligned":
        rows, columns = (
            jnp.asarray(aligned_weights(*sizes), x.dtype) for sizes in zip(x.shape[1:3], shape, strict=True)
        )
        return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)
    if interpolation not in methods:
        raise unknown("interpolation", interpolation, [*methods, "bilinear_aligned"])
    return jax.image.resize(x, (x.shape[0], *shape, x.shape[-1]), methods[interpolation])


class ConvMeanPool(nn.Module):
    """A convolution followed by averaging over two by two pixels.

    Its initial weights are Flax's own (LeCun normal, zero bias), as in the JAX original.
    """

    features: int
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: Images) -> Maps:
        """Convolve, then halve the height and the width."""
        return downsample(Conv(self.features, (self.kernel_size, self.kernel_size))(x))


class ResidualBlock(nn.Module):
    """The residual block of the backbone: two normalized convolutions beside a shortcut."""

    features: int  # output channels; equal to the input channels unless ``down``
    activation: Activation
    # Widen the receptive field: by averaging over two by two pixels if ``dilation`` is 1, otherwise by the dilation
    # alone, at full size.
    down: bool = False
    dilation: int = 1  # distance between the taps of the 3x3 convolutions

    @nn.compact
    def __call__(self, x: Images, normalize: Normalize) -> Maps:
        """``shortcut(x) + conv(act(norm(conv(act(norm(x))))))``."""
        conv = functools.partial(conv3x3, dilation=self.dilation)
        h = self.activation(normalize(x))
        h = conv(h, x.shape[-1] if self.down else self.features)
        h = self.activation(normalize(h))
        if not self.down:
            return x + conv(h, self.features)
        if self.dilation > 1:
            h = conv(h, self.features)
            return h + conv(x, self.features)
        h = ConvMeanPool(self.features)(h)
        return h + ConvMeanPool(self.features, kernel_size=1)(x)


class RCUBlock(nn.Module):
    """Residual convolution units: ``num_units`` times two activated convolutions beside the identity."""

    activation: Activation
    num_units: int

    @nn.compact
    def __call__(self, x: Images, normalize: Normalize) -> Images:
        """The refined features."""
        for _ in range(self.num_units):
            h = x
            for _ in range(2):
                h = conv3x3(self.activation(normalize(h)), x.shape[-1], bias=False)
            x = x + h
        return x


class MSFBlock(nn.Module):
    """Multi-scale fusion: the sum of the convolved inputs at the size of the first."""

    features: int
    interpolation: str = DEFAULTS.model.interpolation

    @nn.compact
    def __call__(self, xs: Sequence[Maps], normalize: Normalize) -> Maps:
        """Fuse feature maps of several sizes."""
        height, width = xs[0].shape[1:3]
        # A generator would leave the order of the modules, hence their names, to `sum`.
        maps = [resize(conv3x3(normalize(x), self.features), (height, width), self.interpolation) for x in xs]
        return functools.reduce(jnp.add, maps)


class CRPBlock(nn.Module):
    """Chained residual pooling: each of two stages pools and convolves the result of the last; all are summed."""

    pool: ClassVar[Pool] = staticmethod(max_pool)
    activation: Activation

    @nn.compact
    def __call__(self, x: Images, normalize: Normalize) -> Images:
        """``y + p1 + p2`` with ``y = act(x)`` and ``p_i = conv(pool(norm(p_{i-1})))``."""
        x = path = self.activation(x)
        for _ in range(2):
            path = conv3x3(self.pool(normalize(path)), x.shape[-1], bias=False, exact=True)
            x = x + path
        return x


class ConditionalResidualBlock(ResidualBlock):
    """The residual block of NCSN."""


class CondRCUBlock(RCUBlock):
    """The residual convolution units of NCSN."""


class CondMSFBlock(MSFBlock):
    """The multi-scale fusion of NCSN."""


class CondCRPBlock(CRPBlock):
    """The chained residual pooling of NCSN: by the mean."""

    pool: ClassVar[Pool] = staticmethod(mean_pool)


class RefineBlock(nn.Module):
    """One refinement: units on every input, fusion if there are several, chained pooling, units on the output."""

    rcu: ClassVar[type[RCUBlock]] = RCUBlock
    msf: ClassVar[type[MSFBlock]] = MSFBlock
    crp: ClassVar[type[CRPBlock]] = CRPBlock
    features: int
    activation: Activation
    interpolation: str = DEFAULTS.model.interpolation  # how coarse maps are enlarged, see :func:`resize`
    end: bool = False  # the last refinement has three units at its end instead of one

    @nn.compact
    def __call__(self, xs: Sequence[Maps], normalize: Normalize) -> Maps:
        """Refine the maps ``xs``; the output has the size of the first."""
        hs = [self.rcu(self.activation, num_units=2)(x, normalize) for x in xs]
        h = self.msf(self.features, self.interpolation)(hs, normalize) if len(hs) > 1 else hs[0]
        h = self.crp(self.activation)(h, normalize)
        return self.rcu(self.activation, num_units=3 if self.end else 1)(h, normalize)


class CondRefineBlock(RefineBlock):
    """The refinement of NCSN, made of its conditional blocks."""

    rcu: ClassVar[type[RCUBlock]] = CondRCUBlock
    msf: ClassVar[type[MSFBlock]] = CondMSFBlock
    crp: ClassVar[type[CRPBlock]] = CondCRPBlock
