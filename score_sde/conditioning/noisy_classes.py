r"""Classes of noisy data: the loss of a classifier that is told the noise, and its log-probabilities for guidance.

With ``y = x / m`` and ``l = log(s / m)`` the law of a class given ``x_t`` depends on ``(y, l)`` alone, since
``y = x_0 + e^l z`` for every linear process. A classifier is a function of both, so that one trained along one process
guides the samples of any other (Song et al. 2021, section 5 and appendix I).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.arguments import check_labeled, labels_of, rows
from score_sde.errors import UserError
from score_sde.keys import example_keys, sample_noise
from score_sde.labels import Labeled
from score_sde.processes import Process
from score_sde.times import LowDiscrepancyTimes
from score_sde.typing import Batch, Labels, Loss, Number, Params, PRNGKey, Times, expand_like, holds

#: The logits of noisy data at their times.
LogitsFn: TypeAlias = Callable[[Batch, Times], Float[Array, "batch classes"]]


def log_probabilities(logits_fn: LogitsFn, process: Process, x: Batch, t: Times) -> Float[Array, "batch classes"]:
    """``log p(k | x_t)`` of every class in nats.

    Args:
        logits_fn: The logits of ``x / m`` and the logarithm of its noise, ``log(s / m)``.
        process: The process, whose marginals have these ``m`` and ``s``.
        x: Noisy data of shape ``(batch, *event)``.
        t: Their times.
    """
    mean_coeff, std = process.marginal(t)
    return jax.nn.log_softmax(logits_fn(x / expand_like(mean_coeff, x), jnp.log(std / mean_coeff)), axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassLogProb:
    """``log p(label | x, t)`` of every example, for :func:`score_sde.conditioning.classifier_guidance`.

    Attributes:
        logits_fn: As for :func:`log_probabilities`.
        process: As there.
        labels: The class of each example, or one for all.
    """

    logits_fn: LogitsFn
    process: Process
    labels: Labels

    def __call__(self, x: Batch, t: Times, /) -> Times:
        """The log-probabilities in nats; NaN for traced labels that are no classes.

        Raises:
            UserError: For labels that are no classes of the classifier, and another number of them than of examples.
        """
        found, labels = log_probabilities(self.logits_fn, self.process, x, t), labels_of(self.labels, x)
        count = found.shape[1]
        if not holds(lambda labels: (labels >= 0) & (labels < count), self.labels):
            raise UserError(
                f"The labels lie between {np.min(self.labels)} and {np.max(self.labels)}; expected 0 to {count - 1}, "
                "the classes of the classifier."
            )
        known = jnp.where(labels < 0, count, labels)  # a negative index would count from the last class
        return jnp.take_along_axis(found, known[:, None], axis=1)[:, 0]

    def of_examples(self, indices: Array) -> "ClassLogProb":
        """The log-probabilities of some examples of the batch."""
        return dataclasses.replace(self, labels=rows(self.labels, indices))


def noisy_class_loss(logits_of: Callable[[Params], LogitsFn], process: Process, *, t_min: Number) -> Loss:
    """The cross-entropy of a classifier, ``-log p(k | x_t)`` in nats, at times uniform from ``t_min`` to 1.

    It is 0 for examples of no class (Song et al. 2021, appendix I.1).

    Args:
        logits_of: From parameters to a function as for :func:`log_probabilities`.
        process: The process that adds the noise.
        t_min: The smallest time.

    Returns:
        The loss; its batches are labeled, and it draws times and noise.

    Raises:
        UserError: On a batch without labels.
    """

    def draw(key: PRNGKey, batch: Any) -> tuple[Any, PRNGKey]:
        check_labeled(batch)
        time_key, noise_key, unused = jax.random.split(key, 3)
        t = LowDiscrepancyTimes(t0=t_min).sample(time_key, batch.data.shape[0]).t
        return (t, sample_noise(example_keys(noise_key, batch.data), batch.data)), unused

    def losses(params: Params, batch: Labeled, draws: tuple[Times, Batch], key: PRNGKey | None) -> Times:
        del key  # nothing in it is random
        t, noise = draws
        x = process.marginal(t)
        noisy = expand_like(x.mean_coeff, noise) * batch.data + expand_like(x.std, noise) * noise
        known = ClassLogProb(logits_of(params), process, jnp.maximum(batch.label, 0))(noisy, t)
        return jnp.where(batch.label < 0, 0.0, -known)

    return Loss(draw, losses)
