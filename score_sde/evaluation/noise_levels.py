"""The accuracy of a classifier of noisy data at each noise level."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.conditioning.noisy_classes import log_probabilities
from score_sde.data import Source
from score_sde.distributed import everywhere, gathered, jit
from score_sde.errors import UserError
from score_sde.evaluation.base import Examples, Purpose, examples, root_key
from score_sde.evaluation.classification import verdict
from score_sde.experiment import Experiment
from score_sde.keys import sample_keys, sample_noise
from score_sde.models.adapters import LinenClassifier
from score_sde.sampling import GRIDS
from score_sde.typing import Params, SampleKeys, expand_like


def accuracy_by_noise(
    experiment: Experiment, classifier: LinenClassifier, params: Params, source: Source
) -> list[dict[str, Any]]:
    """Accuracy and cross-entropy of every example with a class, at ``classifier.levels`` times from noise to data.

    The noise of an example is the same at every level, and follows from its index.

    Raises:
        UserError: If no example has a class.
    """
    settings, sde = experiment.settings.classifier, experiment.sde
    times = GRIDS["log_snr"](sde, settings.levels - 1, settings.t_min)

    @jit
    def scores(params: Params, keys: SampleKeys, levels: Any) -> Any:
        both = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = jax.vmap(experiment.prepare)(both[0], levels)
        noise = sample_noise(both[1], x)

        def at(time: Any) -> Any:
            t = jnp.full(x.shape[:1], time)
            mean_coeff, std = sde.marginal(t)
            noisy = expand_like(mean_coeff, x) * x + expand_like(std, x) * noise
            return log_probabilities(lambda y, place: classifier.logits(params, y, place), sde, noisy, t)

        return jnp.moveaxis(jax.lax.map(at, times), 0, 1)  # (batch, levels, classes)

    root, params = root_key(experiment, Purpose.NOISY_CLASSES), everywhere(experiment.mesh, params)

    def measure(batch: Examples) -> tuple[np.ndarray, np.ndarray]:
        count = len(batch.mask)
        keys = sample_keys(root, batch.number * count, count)
        known = gathered(scores(params, keys, batch.data.data))
        return known[batch.mask], gathered(batch.data.label)[batch.mask]

    size = experiment.settings.likelihood.batch_size
    found = [measure(batch) for batch in examples(experiment, source, batch_size=size)]
    known, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    if not (labels >= 0).any():
        raise UserError(f"No example of the test split of {source.info.name} has a class; expected labels from 0 on.")
    known, labels = known[labels >= 0], labels[labels >= 0]
    places = -0.5 * np.asarray(sde.log_snr(times), np.float64)
    return [
        {"t": float(t), "log_noise": float(place), **verdict(known[:, index], labels)._asdict()}
        for index, (t, place) in enumerate(zip(np.asarray(times), places, strict=True))
    ]
