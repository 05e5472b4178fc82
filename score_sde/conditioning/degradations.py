"""Degradations by name: what a configuration can say is observed of an image, as linear operators."""

import abc
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from score_sde.arguments import Checked, not_fulfilled
from score_sde.conditioning import operators
from score_sde.conditioning.operators import LinearOperator, Observations
from score_sde.errors import UserError, unknown
from score_sde.fields import DEFAULTS
from score_sde.keys import sample_noise
from score_sde.typing import Batch, Number, PRNGKey, SampleKeys, component, static

Shape = tuple[int, int, int]  #: height, width and channels of an image
Unknown = Bool[np.ndarray, "height width"]  #: which pixels of an image are not observed


@component
class Degradation(Checked, abc.ABC):
    """An operator for images of any shape.

    >>> Downsample(factor=2).operator(jax.random.key(0), (2, 2, 1))(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[[[1.5]]]]
    """

    #: Whether every observation is a mean of values of the image, and so within their range.
    averages: ClassVar[bool] = True

    @abc.abstractmethod
    def operator(self, key: PRNGKey, shape: Shape) -> LinearOperator:
        """The operator for images of a shape; the key draws what is random in it, the same for all images."""

    def known(self, key: PRNGKey, shape: Shape) -> Array | None:
        """1 where a value of an image is observed itself and 0 elsewhere; ``None`` if none is."""
        del key, shape
        return None


@component
class Mask(Degradation):
    """The pixels outside a region.

    Attributes:
        region: Name of the region in :data:`REGIONS`.
        missing: Share of the pixels in it.
    """

    region: str = static(default=DEFAULTS.conditioning.region)
    missing: Number = DEFAULTS.conditioning.missing

    def problems(self) -> Iterator[str]:
        """Sentences about an unknown region, and one that is empty or everything."""
        if self.region not in REGIONS:
            yield str(unknown("region", str(self.region), REGIONS))
        yield from not_fulfilled("missing", self.missing, lambda share: (share > 0.0) & (share < 1.0), "a share")

    def known(self, key: PRNGKey, shape: Shape) -> Array:
        """The pixels outside the region, at least one."""
        unknown = REGIONS[self.region](key, *shape[:2], float(self.missing))
        return jnp.asarray(np.broadcast_to(~unknown[..., None], shape))

    def operator(self, key: PRNGKey, shape: Shape) -> LinearOperator:
        """The mask."""
        return operators.mask(self.known(key, shape))


@component
class Grey(Degradation):
    """The mean of the channels."""

    def operator(self, key: PRNGKey, shape: Shape) -> LinearOperator:
        """The projection of the channels.

        Raises:
            UserError: If there is one channel only.
        """
        del key
        if shape[-1] == 1:
            raise UserError(f"Images of shape {shape} are gray already; expected three channels, or another operator.")
        return operators.gray((1.0 / shape[-1],) * shape[-1])


@component
class Downsample(Degradation):
    """The means of blocks of ``factor x factor`` pixels."""

    factor: int = static(default=DEFAULTS.conditioning.factor)

    def operator(self, key: PRNGKey, shape: Shape) -> LinearOperator:
        """The means of blocks."""
        del key
        return operators.block_average(shape, self.factor)


@component
class Blur(Degradation):
    """A Gaussian blur of a standard deviation in pixels."""

    blur_std: Number = DEFAULTS.conditioning.blur_std

    def operator(self, key: PRNGKey, shape: Shape) -> LinearOperator:
        """The blur."""
        del key
        return operators.gaussian_blur(shape, self.blur_std)


@component
class MotionBlur(Degradation):
    """A blur along a line of a length in pixels, in degrees from the horizontal."""

    blur_length: int = static(default=DEFAULTS.conditioning.blur_length)
    blur_angle: Number = DEFAULTS.conditioning.blur_angle

    def operator(self, key: PRNGKey, shape: Shape) -> LinearOperator:
        """The blur."""
        del key, shape
        return operators.motion_blur(self.blur_length, self.blur_angle)


@component
class Projection(Degradation):
    """Random directions, orthonormal."""

    num_projections: int = static(default=DEFAULTS.conditioning.num_projections)

    averages: ClassVar[bool] = False

    def operator(self, key: PRNGKey, shape: Shape) -> LinearOperator:
        """The projection on directions drawn with the key."""
        return operators.random_projection(key, shape, self.num_projections)


#: Degradations by the names of their operators.
DEGRADATIONS: Mapping[str, type[Degradation]] = MappingProxyType(
    {
        "mask": Mask,
        "grey": Grey,
        "downsample": Downsample,
        "blur": Blur,
        "motion_blur": MotionBlur,
        "projection": Projection,
    }
)


def observe(
    keys: SampleKeys, operator: LinearOperator, x: Batch, noise_std: Any, known: Array | None = None
) -> Observations:
    """Observations ``A x + noise_std z`` with noise of each example's own key, only where anything is known.

    >>> mask = operators.mask(jnp.array([1, 0]))
    >>> keys = jax.random.split(jax.random.key(0), 1)
    >>> observe(keys, mask, jnp.ones((1, 2)), 0.5, jnp.array([1, 0]))[0, 1].item()
    0.0
    """
    y = operator(x)
    noise = jnp.asarray(noise_std, y.dtype) * sample_noise(keys, y)
    return y + (noise if known is None else jnp.where(known[None], noise, 0.0))


def _half(key: PRNGKey, height: int, width: int, missing: float) -> Unknown:
    """The lower rows."""
    del key
    rows = min(max(round(missing * height), 1), height - 1)
    return np.broadcast_to(np.arange(height)[:, None] >= height - rows, (height, width))


def _box(key: PRNGKey, height: int, width: int, missing: float) -> Unknown:
    """A box in the middle, of the shape of the image."""
    del key
    inside = []
    for size in (height, width):
        side = min(max(round(missing**0.5 * size), 1), size - 1)
        first = (size - side) // 2
        inside.append((np.arange(size) >= first) & (np.arange(size) < first + side))
    return inside[0][:, None] & inside[1][None]


def _random(key: PRNGKey, height: int, width: int, missing: float) -> Unknown:
    """Pixels at random."""
    count = min(max(round(missing * height * width), 1), height * width - 1)
    order = np.asarray(jax.random.permutation(key, height * width))
    return (order < count).reshape(height, width)


#: Regions of unknown pixels by name: ``(key, height, width, share) -> unknown``.
REGIONS: Mapping[str, Callable[[PRNGKey, int, int, float], Unknown]] = MappingProxyType(
    {"half": _half, "box": _box, "random": _random}
)
