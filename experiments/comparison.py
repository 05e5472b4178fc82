"""What the scripts that train many models share: data, samples, their distance to the data, and cells of tables."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_sde.cli import load_config
from score_sde.data import load_source
from score_sde.distributed import jit
from score_sde.metrics import frechet_interval, moments
from score_sde.metrics.extractors import make_extractor

SAMPLES = 1000
DATA = ("digits", "mnist")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """The flags ``--data`` and ``--data_dir``."""
    parser.add_argument("--data", choices=DATA, default="digits", help="images to learn")
    parser.add_argument("--data_dir", default="", help="directory of MNIST")


def settings_of(flags: Sequence[str]) -> Any:
    """The configuration of flags of the command line, the first of which names its file."""
    return load_config(Path(flags[0].removeprefix("--config=")), list(flags[1:]))


class Distance:
    """The Fréchet distance of samples to the training images."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take the moments of the training images."""
        source = load_source(options.data, "train", data_dir=options.data_dir)
        assert source.info.num_grey_levels is not None  # all of DATA are images
        self.num_levels = source.info.num_grey_levels
        self._extractor = make_extractor(
            "auto", shape=source.info.shape, num_levels=self.num_levels, source=options.data
        )
        self._reference = moments(self._features(source.gather(np.arange(len(source)))))

    def _features(self, images: np.ndarray) -> np.ndarray:
        return self._extractor(images.astype(np.uint8)).features

    def of(self, images: np.ndarray) -> float:
        """The distance."""
        return frechet_interval(self._features(images), self._reference).distance


def samples(experiment: Any, params: Any, **sampling: Any) -> np.ndarray:
    """Samples of a model as gray levels, with some fields of ``config.sampling`` changed."""
    sampler, shape = experiment.with_sampling(**sampling).sampler, (SAMPLES, *experiment.event_shape)
    draw = jit(lambda params: sampler(params, jax.random.key(1), shape).y)
    return experiment.quantization.quantize(np.asarray(draw(params)))


def mean_cell(values: Sequence[float], digits: int) -> str:
    """The mean over seeds, with its standard error if there are several."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"
