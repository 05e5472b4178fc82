r"""The conditional flow of Flow++ (Ho et al. 2019, arXiv 1902.00275), which dequantizes images in ScoreFlow.

Standard normal noise ``e`` of the shape of an image ``k`` is carried to ``u`` in ``(0, 1)``, given ``k``, so that

    log q(u | k) = log N(e; 0, I) - log |det du/de|.

Columns are split into even and odd ones. Each step of the flow rescales both halves (:class:`ActNorm`), mixes their
channels (:class:`ChannelMix`), moves one half by a bijection whose parameters a network reads off the other half and
the image (:class:`Coupling`), and exchanges the halves. In the end they are joined, and a sigmoid gives ``u``. The
defaults are the sizes of the original for CIFAR-10 (Song et al. 2021b, arXiv 2101.09258); at 32x32x3 they are 3,466,976
parameters.

The original draws its initial scales from the first batch, so that every layer returns normalized values. Here they
are fixed: every layer starts close to the identity, on noise that is standard normal already. Only the first
:class:`ActNorm` starts at the gain 1.7, at which the sigmoid of normal noise is closest to uniform, so that training
starts from uniform dequantization.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.fields import DEFAULTS
from score_sde.models.dropout import Dropout
from score_sde.models.layers import Images, Pointwise, conv3x3
from score_sde.models.logistic_mixture import LogisticMixture, inverse_logit_cdf, logit_cdf
from score_sde.typing import Times, event_sum

Context = Float[Array, "batch height width features"]
Half = Float[Array, "batch height half channels"]
Halves = tuple[Half, Half]  # even and odd columns

_SMALL = 0.01  # initial scale of residual branches and of the moves of couplings: a standard deviation of 0.1
_UNIFORM_GAIN = 1.7  # sigmoid(1.7 e) costs 0.010 nats against uniform noise, sigmoid(e) 0.19


def split_columns(x: Images) -> Halves:
    """The even and the odd columns."""
    return x[:, :, 0::2], x[:, :, 1::2]


def join_columns(halves: Halves) -> Images:
    """The inverse of :func:`split_columns`.

    >>> x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    >>> bool((join_columns(split_columns(x)) == x).all())
    True
    """
    even, odd = halves
    batch, height, width, channels = even.shape
    return jnp.stack([even, odd], axis=3).reshape(batch, height, 2 * width, channels)


def concat_elu(x: Images) -> Float[Array, "batch height width doubled"]:
    """``elu(x)`` beside ``elu(-x)`` (Shang et al. 2016), twice as many channels."""
    return nn.elu(jnp.concatenate([x, -x], axis=-1))


def gate(x: Images) -> Float[Array, "batch height width halved"]:
    """``a sigmoid(b)`` for the two halves of the channels."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * nn.sigmoid(b)


class GatedConv(nn.Module):
    """A gated residual block: ``x + gate(W2 elu(W1 elu(x) + Wc elu(context)))`` with :func:`concat_elu`."""

    dropout: float  # dropout rate before ``W2``
    pointwise: bool = False  # ``W2`` mixes channels only; else it is a 3x3 convolution like ``W1``

    @nn.compact
    def __call__(self, x: Images, context: Context | None = None, train: bool = False) -> Images:
        """The input plus the gated branch, conditional on the context if there is one."""
        channels = x.shape[-1]
        h = conv3x3(channels)(concat_elu(x))
        if context is not None:
            h = h + Pointwise(channels)(concat_elu(context))
        h = Dropout(self.dropout)(concat_elu(h), train)
        h = Pointwise(2 * channels, _SMALL)(h) if self.pointwise else conv3x3(2 * channels, _SMALL)(h)
        return x + gate(h)


class GatedAttention(nn.Module):
    """A gated residual block of multi-head self-attention over pixels."""

    heads: int  # number of heads, which divides the channels
    dropout: float  # dropout rate before the output projection

    @nn.compact
    def __call__(self, x: Images, positions: Float[Array, "height width channels"], train: bool = False) -> Images:
        """``x + gate(W_o softmax(q k^T / sqrt(d)) v)`` with q, k and v from ``x`` and its positions."""
        batch, channels = x.shape[0], x.shape[-1]
        width = channels // self.heads
        projected = Pointwise(3 * channels)(x + positions[None])
        query, key, value = jnp.moveaxis(projected.reshape(batch, -1, 3, self.heads, width), 2, 0)
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(width), axis=-1)
        h = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        h = Dropout(self.dropout)(h, train)
        return x + gate(Pointwise(2 * channels, _SMALL)(h))


class ContextNet(nn.Module):
    """The features of the image that condition the flow: a convolution and three gated blocks at half the width."""

    features: int  # number of channels
    dropout: float

    @nn.compact
    def __call__(self, image: Images, train: bool = False) -> Float[Array, "batch height half {self.features}"]:
        """Features for every pair of neighboring columns."""
        h = conv3x3(self.features)(jnp.concatenate(split_columns(image), axis=-1))
        for _ in range(3):
            h = GatedConv(self.dropout)(h, train=train)
        return h


class ActNorm(nn.Module):
    """``exp(log_gain) x + bias`` with a gain and a bias for every pixel and channel."""

    initial_gain: float = 1.0  # the gain to start from

    @nn.compact
    def __call__(self, x: Images, inverse: bool = False) -> tuple[Images, Times]:
        """The values and the log-determinant, of the inverse map on request."""
        start = nn.initializers.constant(math.log(self.initial_gain))
        log_gain, bias = (
            self.param("log_gain", start, x.shape[1:]),
            self.param("bias", nn.initializers.zeros, x.shape[1:]),
        )
        log_det = jnp.full(x.shape[0], jnp.sum(log_gain))
        if inverse:
            return (x - bias[None]) * jnp.exp(-log_gain)[None], -log_det
        return x * jnp.exp(log_gain)[None] + bias[None], log_det


def near_identity(key: Array, shape: tuple[int, int]) -> Float[Array, "channels channels"]:
    """The identity and normal noise of standard deviation 0.001."""
    return jnp.eye(shape[0]) + 0.001 * jax.random.normal(key, shape)


class ChannelMix(nn.Module):
    """An invertible 1x1 convolution (Kingma & Dhariwal 2018); with one channel, a factor."""

    @nn.compact
    def __call__(self, x: Images, inverse: bool = False) -> tuple[Images, Times]:
        """The values and the log-determinant, of the inverse map on request."""
        _, height, width, channels = x.shape
        matrix = self.param("matrix", near_identity, (channels, channels))
        log_det = jnp.full(x.shape[0], height * width * jnp.linalg.slogdet(matrix)[1])
        if inverse:
            return jnp.einsum("bhwc,cd->bhwd", x, jnp.linalg.inv(matrix)), -log_det
        return jnp.einsum("bhwc,cd->bhwd", x, matrix), log_det


class CouplingNet(nn.Module):
    """The network of a coupling: gated convolutions and attention with positions, in blocks."""

    outputs: int  # number of outputs per value
    filters: int  # number of channels
    blocks: int  # number of blocks
    heads: int  # heads of attention
    dropout: float

    @nn.compact
    def __call__(
        self, x: Images, context: Context, train: bool = False
    ) -> Float[Array, "batch height width channels {self.outputs}"]:
        """The parameters of the bijection of every value of the other half."""
        positions = self.param("positions", nn.initializers.normal(0.01), (*x.shape[1:3], self.filters))
        h = conv3x3(self.filters)(x)
        for _ in range(self.blocks):
            h = GatedConv(self.dropout, pointwise=True)(h, context, train)
            h = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)(h)
            h = GatedAttention(self.heads, self.dropout)(h, positions, train)
            h = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)(h)
        return conv3x3(x.shape[-1] * self.outputs, _SMALL)(h).reshape(*x.shape, self.outputs)


class Coupling(nn.Module):
    """``y = exp(tanh a) logit F(x) + b`` with ``F``, a and b from the other half and the context.

    ``F`` is the distribution function of a mixture of logistics; see :mod:`score_sde.models.logistic_mixture`.
    """

    filters: int  # channels of the network
    components: int  # logistic distributions per mixture
    blocks: int  # blocks of the network
    heads: int  # its heads of attention
    dropout: float  # its dropout rate

    @nn.compact
    def __call__(
        self, halves: Halves, context: Context, inverse: bool = False, train: bool = False
    ) -> tuple[Halves, Times]:
        """The first half unchanged, the second half moved, and the log-determinant; of the inverse map on request."""
        kept, moved = halves
        network = CouplingNet(2 + 3 * self.components, self.filters, self.blocks, self.heads, self.dropout)
        raw = network(kept, context, train)
        log_scale, shift = jnp.tanh(raw[..., 0]), raw[..., 1]
        mixture = LogisticMixture.of(*jnp.split(raw[..., 2:], 3, axis=-1))
        if inverse:
            x = inverse_logit_cdf(mixture, (moved - shift) * jnp.exp(-log_scale))
            return (kept, x), -event_sum(logit_cdf(mixture, x)[1] + log_scale)
        y, log_slope = logit_cdf(mixture, moved)
        return (kept, y * jnp.exp(log_scale) + shift), event_sum(log_slope + log_scale)


class FlowStep(nn.Module):
    """Rescale, mix channels, couple, exchange the halves."""

    coupling: Coupling
    initial_gain: float = 1.0  # initial gain of both :class:`ActNorm`

    @nn.compact
    def __call__(
        self, halves: Halves, context: Context, inverse: bool = False, train: bool = False
    ) -> tuple[Halves, Times]:
        """The halves and the log-determinant, of the inverse map on request."""
        stages = [[ActNorm(self.initial_gain) for _ in halves], [ChannelMix() for _ in halves]]
        log_det = jnp.zeros(halves[0].shape[0])
        if inverse:
            halves, log_det = self.coupling((halves[1], halves[0]), context, True, train)
        for stage in reversed(stages) if inverse else stages:
            (even, even_log_det), (odd, odd_log_det) = (
                layer(half, inverse) for layer, half in zip(stage, halves, strict=True)
            )
            halves, log_det = (even, odd), log_det + even_log_det + odd_log_det
        if inverse:
            return halves, log_det
        (even, odd), coupling_log_det = self.coupling(halves, context, False, train)
        return (odd, even), log_det + coupling_log_det


class FlowPP(nn.Module):
    """The whole flow from noise to ``u``, given the image; its inverse on request.

    Its fields are described under ``config.dequantizer`` in ``docs/fields.md``.
    """

    filters: int = DEFAULTS.dequantizer.filters
    components: int = DEFAULTS.dequantizer.components
    blocks: int = DEFAULTS.dequantizer.blocks
    num_flows: int = DEFAULTS.dequantizer.num_flows
    heads: int = DEFAULTS.dequantizer.heads
    context_features: int = DEFAULTS.dequantizer.context_features
    dropout: float = DEFAULTS.dequantizer.dropout

    @nn.compact
    def __call__(
        self,
        values: Images,
        image: Images,
        inverse: bool = False,
        train: bool = False,
    ) -> tuple[Images, Times]:
        """From noise to ``u`` with ``log |det du/de|``, or from ``u`` to noise with the log-determinant of the inverse.

        Noise, or ``u``, has an even number of columns, and the gray levels of the image are scaled to ``(-1/2, 1/2)``.
        """
        context = ContextNet(self.context_features, self.dropout)(image, train)
        steps = []
        for index in range(self.num_flows):
            coupling = Coupling(self.filters, self.components, self.blocks, self.heads, self.dropout)
            steps.append(FlowStep(coupling, 1.0 if index else _UNIFORM_GAIN))
        if inverse:
            h = jnp.log(values) - jnp.log1p(-values)
            log_det = event_sum(nn.softplus(h) + nn.softplus(-h))
            halves = split_columns(h)
            for step in reversed(steps):
                halves, change = step(halves, context, True, train)
                log_det = log_det + change
            return join_columns(halves), log_det
        halves, log_det = split_columns(values), jnp.zeros(values.shape[0])
        for step in steps:
            halves, change = step(halves, context, False, train)
            log_det = log_det + change
        h = join_columns(halves)
        edge = jnp.finfo(h.dtype).epsneg  # the sigmoid rounds to 1 from 17 on in float32
        return jnp.clip(nn.sigmoid(h), edge, 1.0 - edge), log_det - event_sum(nn.softplus(h) + nn.softplus(-h))
