r"""The inception score (Salimans et al. 2016): a classifier's confidence in each sample, and the variety of all."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import special

from score_sde.errors import UserError
from score_sde.metrics.checks import finite_rows
from score_sde.metrics.intervals import quantile


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits, and the interval of the mean."""

    mean: float
    std: float  # over splits, as usually reported; not an error of the mean
    std_error: float  # of the mean, over fresh samples
    low: float
    high: float
    num_splits: int


def inception_score(
    logits: np.ndarray, num_splits: int = 10, *, shuffle_seed: int | None = None, confidence: float = 0.95
) -> InceptionScore:
    r"""``exp(E KL(p(y|x) || p(y)))`` in each split of ``(n, k)`` logits; mean and population std over the splits.

    Splits are ``i n // num_splits`` to ``(i + 1) n // num_splits`` in all protocols; these differ in the order. The
    code of Salimans et al. keeps the order of the samples (``shuffle_seed=None``, correct if classes are mixed),
    torch-fidelity first permutes them by NumPy's ``RandomState(2020)`` (``shuffle_seed=2020``), and TF-GAN takes all as
    one split. Smaller splits score lower, so compare only scores of equal ``num_splits`` and n.

    The interval is for the mean at this n and number of splits. To first order a sample changes the logarithm by its
    divergence ``KL(p(y|x) || p(y))`` minus their mean, which gives the error of the logarithm.

    Raises:
        UserError: For logits that are not finite, and fewer than two samples in a split.

    >>> inception_score(100.0 * np.eye(4)[np.arange(40) % 4], num_splits=2).mean.__round__(6)  # sure, and even
    4.0
    """
    logits = np.asarray(finite_rows(logits, "logits"), np.float64)
    if num_splits < 1 or len(logits) < 2 * num_splits:
        raise UserError(
            f"{num_splits} splits of {len(logits)} samples were asked for; expected one or more, of two samples or "
            "more; draw more samples or split less."
        )
    if shuffle_seed is not None:
        logits = logits[np.random.RandomState(shuffle_seed).permutation(len(logits))]
    bounds = [i * len(logits) // num_splits for i in range(num_splits + 1)]
    scores = [math.exp(_divergences(logits[a:b]).mean()) for a, b in itertools.pairwise(bounds)]
    mean = float(np.mean(scores))
    of_log = float(_divergences(logits).std(ddof=1) / math.sqrt(len(logits)))
    factor = math.exp(quantile(confidence) * of_log)
    return InceptionScore(mean, float(np.std(scores)), mean * of_log, mean / factor, mean * factor, num_splits)


def _divergences(logits: np.ndarray) -> np.ndarray:
    """``KL(p(y|x) || p(y))`` of every row, in nats."""
    log_p = special.log_softmax(logits, axis=1)
    log_marginal = np.asarray(special.logsumexp(log_p, axis=0)) - math.log(len(logits))
    return np.sum(np.exp(log_p) * (log_p - log_marginal), axis=1)
