"""A classifier of noisy images: the wide residual network WRN-28-10 (Zagoruyko & Komodakis 2016), told the noise level.

The gradient of its log-probabilities with respect to the image, added to a score, samples from a class (Song et al.
2021, section 5). Group normalization in place of batch normalization keeps the images of a batch independent.
Modules are named as in the original, but for the order of the two layers of the noise embedding.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.models.adapters import LinenClassifier
from score_sde.models.layers import Conv, Features, FourierEmbedding
from score_sde.models.pixels import Images, add_everywhere
from score_sde.typing import Params, Times

_CIFAR10_MEAN, _CIFAR10_STD = (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)  # by channel

Maps = Float[Array, "_ _ _ _"]  # feature maps of any size and width


def standardize_images(x: Images) -> Images:
    """Zero mean and unit variance over all pixels and channels of each image.

    The standard deviation counts as at least ``1 / sqrt(n)``, ``n`` values, so that a constant image becomes zero.
    """
    centered = x - x.mean(axis=(1, 2, 3), keepdims=True)
    # The bound is put on the variance, not on its root, whose gradient at zero is NaN.
    variance = (centered * centered).mean(axis=(1, 2, 3), keepdims=True)
    return centered * jax.lax.rsqrt(jnp.maximum(variance, 1.0 / x[0].size))


def normalize_and_activate(x: Images, name: str) -> Images:
    """Group normalization with at most 32 groups of at least 4 channels, then ReLU."""
    norm = nn.GroupNorm(min(x.shape[-1] // 4, 32), epsilon=1e-5, use_fast_variance=False, name=name)
    return nn.relu(norm(x))


def shortcut(x: Images, like: Maps) -> Maps:
    """The input of a block in the shape of its output, without weights: means over pixels, zeros for new channels."""
    stride = x.shape[2] // like.shape[2]
    pooled = nn.avg_pool(x, (stride, stride), (stride, stride)) if stride > 1 else x
    return jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (0, like.shape[-1] - x.shape[-1])))


def conv3x3(features: int, name: str, stride: int = 1) -> Conv:
    """A 3x3 convolution without bias, initialized for ReLU (He et al. 2015) by fan-out."""
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return Conv(features, strides=stride, use_bias=False, kernel_init=init, name=name)


def uniform_by_classes(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Weights of the last layer: uniform within ``1 / sqrt(num_classes)`` of zero."""
    bound = shape[1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class WideResnetBlock(nn.Module):
    """Two normalized 3x3 convolutions beside a shortcut; the noise embedding is added between them."""

    features: int
    stride: int = 1  # stride of the first convolution
    activate_before_shortcut: bool = False  # start the shortcut, too, from the normalized and activated input

    @nn.compact
    def __call__(self, x: Images, embedding: Features) -> Maps:
        """The block's output, smaller by ``stride``."""
        h = normalize_and_activate(x, "init_bn")
        if self.activate_before_shortcut:
            x = h
        h = conv3x3(self.features, "conv1", self.stride)(h)
        h = add_everywhere(h, nn.Dense(self.features)(nn.swish(embedding)))
        h = conv3x3(self.features, "conv2")(normalize_and_activate(h, "bn_2"))
        return h + shortcut(x, h)


class WideResnetGroup(nn.Module):
    """Blocks of one width; the first may shrink the maps."""

    num_blocks: int
    features: int
    stride: int = 1
    activate_before_shortcut: bool = False

    @nn.compact
    def __call__(self, x: Images, embedding: Features) -> Maps:
        """The output of the last block."""
        x = WideResnetBlock(self.features, self.stride, self.activate_before_shortcut)(x, embedding)
        for _ in range(self.num_blocks - 1):
            x = WideResnetBlock(self.features)(x, embedding)
        return x


class WideResNet(nn.Module):
    """A wide residual network conditional on the noise level, by default WRN-28-10."""

    num_classes: int = 10
    num_blocks: int = 4  # blocks in each of the three groups: (depth - 4) / 6
    widening: int = 10  # channels of the first group in multiples of 16
    embedding_features: int = 128  # number of random frequencies of the noise embedding
    fourier_scale: float = 16.0  # their standard deviation

    @nn.compact
    def __call__(self, x: Images, condition: Times, *, train: bool = False) -> Float[Array, "batch {self.num_classes}"]:
        """The logits of images whose height and width are divisible by 4, at noise ``condition = ln sigma``."""
        del train  # nothing in it is random
        width = 4 * self.embedding_features
        fourier = FourierEmbedding(self.embedding_features, self.fourier_scale, name="GaussianFourierProjection_0")
        embedding = nn.Dense(width)(nn.swish(nn.Dense(width)(fourier(condition))))

        h = conv3x3(16, "init_conv")(standardize_images(x))
        for group in range(3):
            features, stride, first = 16 * 2**group * self.widening, min(group + 1, 2), group == 0
            h = WideResnetGroup(self.num_blocks, features, stride, activate_before_shortcut=first)(h, embedding)
        h = normalize_and_activate(h, "pre-pool-bn").mean(axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=uniform_by_classes)(h)


@dataclasses.dataclass(frozen=True)
class Cifar10Classifier(LinenClassifier):
    """The classifier of CIFAR-10 that is published with score_sde, for images in the range of a run.

    It was trained on images from 0 to 1 with the noise of a VE SDE, standardized by channel before the noise is seen.
    """

    centered: bool  # whether the images of the run are from -1 to 1, rather than from 0 to 1

    def logits(self, params: Params, x: Images, condition: Times) -> Float[Array, "batch classes"]:
        """The logits of images with noise of standard deviation ``e^condition``, in the range of the run."""
        if self.centered:
            x, condition = 0.5 * (x + 1.0), condition - jnp.log(2.0)
        mean, std = (jnp.asarray(values, x.dtype)[None, None, None] for values in (_CIFAR10_MEAN, _CIFAR10_STD))
        return super().logits(params, (x - mean) / std, condition)


class PointClassifier(nn.Module):
    """Dense layers on the noise embedding and the values of points, series or volumes."""

    num_classes: int
    num_blocks: int
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *event"], condition: Times, *, train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """The logits of points with noise of standard deviation ``e^condition``, which are scaled to size one."""
        del train  # nothing in it is random
        scale = jax.lax.rsqrt(1.0 + jnp.exp(2.0 * condition))
        # Its shape changes over the whole range of the noise, so it needs no high frequencies.
        embedding = FourierEmbedding(16, 0.1)(condition)
        flat = x.reshape(x.shape[0], -1)
        h = jnp.concatenate([flat * scale[:, None], embedding, condition[:, None]], axis=1)
        for _ in range(self.num_blocks):
            h = nn.swish(nn.Dense(self.features)(h))
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(h)
