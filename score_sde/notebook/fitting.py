"""Training from arrays: the loop of the command line, without a configuration and without a working directory."""

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from score_sde.data import STANDARDIZATIONS, DataRecord
from score_sde.data.arrays import array_splits
from score_sde.errors import Preempted
from score_sde.experiment import Experiment
from score_sde.models.adapters.own import name_of
from score_sde.modes.models import of_state
from score_sde.modes.record import check_given, recorded_data
from score_sde.modes.training import train_run
from score_sde.modes.workdir import experiment_for, trained_state
from score_sde.notebook.choices import settings_of
from score_sde.notebook.model import Model
from score_sde.paths import place, typed
from score_sde.processes import Process
from score_sde.sdes import VP
from score_sde.state import TrainState

log = logging.getLogger("score_sde")


def fit(
    data: Any,
    process: Process | str = VP(),  # noqa: B008 -- immutable
    network: Any = None,
    *,
    steps: int = 3000,
    labels: Any = None,
    held_out: Any = None,
    num_levels: int = 256,
    seed: int = 42,
    directory: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Model:
    """Train a diffusion model of an array.

    Floats are continuous data: each column of the last axis is standardized, and samples and likelihoods are in the
    data's own units. Whole numbers are gray levels, dequantized with uniform noise, and likelihoods are of the levels.

    The training can be interrupted (Ctrl-C, or the stop of a notebook's cell): the model so far is returned. With a
    directory, which is a working directory of the command line like any other, the same call goes on from its newest
    checkpoint, to the same bits as without the interruption. More ``steps`` train further.

    Args:
        data: The examples, of shape ``(examples, *event)``; images have their channels last.
        process: The SDE, or its name.
        network: A network of any library, as ``docs/own_parts.md`` says: a Linen module, an NNX or Equinox class, a
            pair of functions, or a :class:`score_sde.typing.Network`. By default a residual perceptron for vectors, and
            a small DDPM++ for images.
        steps: Steps of training.
        labels: The class of each example, for a class-conditional model.
        held_out: Examples on which the loss is told; with labels a pair. By default a tenth of the data.
        num_levels: The number of gray levels, for whole numbers.
        seed: Root of all random numbers.
        directory: Where checkpoints and metrics go; by default nowhere.
        config: Other values for fields of the configuration by their dotted names, such as ``{"optim.lr": 3e-4}``; see
            ``docs/fields.md``.
        progress: Tell of the progress on standard error, unless logging is set up otherwise.

    Raises:
        UserError: For data, labels, networks and fields that cannot be used, for a directory with another run, and for
            a loss that is no longer finite.

    >>> import jax, numpy as np
    >>> model = fit(np.random.default_rng(0).normal(size=(500, 2)), steps=4, progress=False)
    >>> model.sample(jax.random.key(0), 3).shape
    (3, 2)
    """
    splits = array_splits(data, labels, held_out=held_out, num_levels=num_levels)
    train, by_class = splits["train"], labels is not None
    settings = settings_of(train, process, steps=steps, seed=seed, labels=by_class, changes=config or {})
    with _place(directory) as workdir, _told(progress):
        check_given(workdir, network)
        known, measure = recorded_data(workdir), STANDARDIZATIONS[settings.data.standardize]
        scale = None if known is None else known.standardization
        if scale is None and measure is not None:
            scale = measure(train)
        experiment = experiment_for(settings, train.info, "demo", scale, network=network)
        record = DataRecord.of(train.info, splits, labels=by_class, standardization=scale)
        given = "" if network is None else name_of(network)
        state = _trained(experiment, splits, record, workdir, given)
        found = of_state(experiment, state, record, None if directory is None else workdir)
        return Model(**found._replace(given=given)._asdict())


def _trained(experiment: Experiment, splits: Any, record: DataRecord, workdir: Path, given: str) -> TrainState:
    """The state after training, or where an interruption ended it."""
    try:
        return train_run(experiment, splits, record, workdir, given=given)
    except Preempted as stopped:
        if not stopped.code:  # the process is told to end
            raise
        state = trained_state(experiment, workdir)
        log.warning(
            "Interrupted: the model is of step %d of %d.", int(state.step), experiment.settings.training.num_steps
        )
        return state


@contextlib.contextmanager
def _place(directory: str | Path | None) -> Iterator[Path]:
    """The directory, or one that is gone afterwards."""
    if directory is not None:
        yield place(typed(str(directory), "directory", bucket=True))
        return
    with tempfile.TemporaryDirectory(prefix="score_sde_") as name:
        yield Path(name)


@contextlib.contextmanager
def _told(progress: bool) -> Iterator[None]:
    """Show the messages of the package where nobody has set up logging."""
    if not progress or log.isEnabledFor(logging.INFO):
        yield
        return
    handler, level, propagate = logging.StreamHandler(sys.stderr), log.level, log.propagate
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    # A library that speaks through the root logger gives it a handler in passing, which would tell everything twice.
    log.propagate = any(type(own) is not logging.StreamHandler for own in logging.getLogger().handlers)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
