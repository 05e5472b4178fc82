"""The fields of conditional samples: classes of labeled data, and images given observations of them."""

import dataclasses
from typing import ClassVar

from score_sde.fields.conditions import When, given, unless
from score_sde.fields.diffusion import SCORE
from score_sde.fields.kinds import Integer, Real
from score_sde.fields.lines import Group, choice, flag, integer, path, real, several
from score_sde.fields.model import MAX_CLASSES

OBSERVED = ("mask", "grey", "downsample", "blur", "motion_blur", "projection")
REGIONS = ("half", "box", "random")
METHODS = ("mmps", "pigdm", "dps", "ddnm", "repaint", "daps", "tds")

_CLASSES = given("conditioning.classes", True)
_GUIDED = _CLASSES & unless("conditioning.scale", 1.0)
_CLASSIFIER = unless("conditioning.classifier", "")
_MASK, _DOWNSAMPLE, _BLUR, _MOTION_BLUR, _PROJECTION = (
    given("conditioning.operator", name) for name in ("mask", "downsample", "blur", "motion_blur", "projection")
)
_MMPS, _REPAINT, _DAPS, _TDS = (given("conditioning.method", name) for name in ("mmps", "repaint", "daps", "tds"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning(Group):
    """Conditional samples: of a class, where training reads labels, and in --mode=restore given an observation."""

    when: ClassVar[When] = SCORE

    classes: bool = flag(
        False, "train on the labels of the data too, so that samples and likelihoods are of a class", When()
    )
    null_probability: float = real(
        *(0.1, 0.0, 0.99, "share of the examples without their label in training, for guidance; 0 for none"),
        when=_CLASSES,
    )
    labels: tuple[int, ...] = several(
        *((), Integer(low=0, high=MAX_CLASSES - 1), (0, 100)),
        "classes of the samples, in turn, empty for all; in --mode=restore of the images, empty for none",
        when=_CLASSES | _CLASSIFIER,
    )
    scale: float = real(
        *(1.0, 0.0, 100.0, "guidance of samples by their class: 1 off, above 1 further towards it, 0 of no class"),
        when=_CLASSES,
    )
    guidance_interval: tuple[float, ...] = several(
        *((), Real(low=0.0, high=1e6), (2, 2)),
        "noise-to-signal ratios s / m, the lower first, between which samples are guided by their class; empty for all",
        _GUIDED,
        or_empty=True,
    )
    rescale: float = real(
        *(0.0, 0.0, 1.0, "how far guidance leaves the std of a score as that of its class: 0 not at all, 1 wholly"),
        when=_GUIDED,
    )
    classifier: str = path(
        "",
        "a directory of --mode=train_classifier, or the checkpoint of CIFAR-10's classifier of score_sde, which guides "
        "samples to classes; empty for none",
    )
    classifier_scale: float = real(1.0, 0.0, 100.0, "times the gradient of the classifier; 0 for none", _CLASSIFIER)
    operator: str = choice(
        OBSERVED,
        "what is observed of an image: the pixels outside a region, the mean of its channels, the means of blocks, a "
        "Gaussian blur, a blur along a line, or random directions",
    )
    region: str = choice(REGIONS, "the unknown pixels: the lower rows, a box in the middle, or some at random", _MASK)
    missing: float = real(0.5, 1e-3, 0.999, "share of the pixels that are unknown", _MASK)
    factor: int = integer(2, 2, 1024, "height and width of a block in pixels", _DOWNSAMPLE)
    blur_std: float = real(1.0, 0.1, 1e3, "standard deviation of the blur in pixels", _BLUR)
    blur_length: int = integer(5, 2, 1024, "length of the line in pixels", _MOTION_BLUR)
    blur_angle: float = real(0.0, -360.0, 360.0, "degrees of the line from the horizontal", _MOTION_BLUR)
    num_projections: int = integer(16, 1, 10**6, "how many directions, orthonormal", _PROJECTION)
    noise_std: float = real(
        0.1, 0.0, 1e3, "standard deviation of the noise of observations, of images from -1 to 1 (uncentered: 0 to 1)"
    )
    method: str = choice(
        METHODS,
        "how images are drawn: with a posterior score by the sampler of config.sampling (mmps, pigdm, dps, and ddnm "
        "without noise), by repeated steps that hold known pixels (repaint, without noise), by decoupled annealing "
        "(daps), or as weighted particles (tds)",
    )
    solve_steps: int = integer(3, 1, 1000, "iterations of the linear solver at each evaluation", _MMPS)
    data_std: float = real(
        *(0.5, 1e-3, 1e3, "standard deviation of the data in the range of the network"),
        when=given("conditioning.method", "pigdm", "tds"),
    )
    num_repeats: int = integer(10, 1, 1000, "how often each step is taken", _REPAINT)
    flow_steps: int = integer(5, 1, 1000, "evaluations along the flow at each step", _DAPS)
    num_particles: int = integer(64, 2, 10**6, "particles for each image", _TDS)
    images: str = path(
        "",
        "what is restored in place of the test split: an image, or an .npz file of images (images, x or samples) to be "
        "observed, or of observations (y, with truth if it is known)",
    )
    num_images: int = integer(8, 1, 100_000, "how many of the first images")
    draws: int = integer(19, 2, 10_000, "draws for each image; 19, 39, ... make intervals of exactly 90 %")
