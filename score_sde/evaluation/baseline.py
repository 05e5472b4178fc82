"""The likelihood baseline: the best Gaussian mixture on the same dequantized data under the same protocol.

A neural likelihood means little without a baseline. A Gaussian mixture fits in seconds, its density is exact, and on
small images it is strong. It gets every advantage: covariance type, number of components and regularization are chosen
on a part of the training set, every training image appears with several draws of the dequantization noise, and the
winner is refitted on the whole training set.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

    from score_sde.quantization import Quantization

COMPONENTS = {  # the data support more components if each has fewer parameters
    "diag": (1, 2, 5, 10, 20, 40, 60, 80, 120),
    "full": (1, 2, 5, 10, 20, 40),
    "tied": (1, 2, 5, 10, 20, 40),
}
REGULARIZATIONS = (0.1, 0.3, 1.0, 3.0, 10.0)  # in units of the variance of the noise inside a bin
VALIDATION_FRACTION = 0.2
HOPELESS = 0.15  # bits/dim behind the best beyond which a covariance type's regularization is not tuned
FINALISTS = 3  # settings judged again with more noise draws
DRAWS = 4  # dequantization noises per image for the finalists, the final fit and the evaluation
RESTARTS = 2  # of the final fit; the best training likelihood counts
PATIENCE = 0.02  # bits/dim: the scan over the number of components stops when more of them are worse by this
MAX_ITERATIONS = 60
MAX_TRAIN_EXAMPLES = 20_000  # more hardly change the fit of so few parameters, and cost time in proportion


class GaussianMixtureBaseline(NamedTuple):
    """The result of the best Gaussian mixture."""

    bits_per_dim: float  # mean negative log-likelihood on the test set in bits per dimension, as for discrete images
    std_error: float  # its standard error over test examples
    num_components: int  # of the chosen mixture
    covariance: str  # its covariance type: ``full``, ``tied`` or ``diag``
    seconds: float  # time of search, fit and evaluation
    num_train: int  # number of training examples


class _Setting(NamedTuple):
    covariance: str
    num_components: int
    regularization: float  # in units of the noise variance


@dataclasses.dataclass(frozen=True)
class _Data:
    """One split and its dequantization: flat examples ``(n, d)``."""

    examples: np.ndarray
    quantization: "Quantization"

    @property
    def noise_variance(self) -> float:
        """Variance of uniform noise over a bin, or a small fraction of the variance of continuous data."""
        levels = self.quantization.num_grey_levels
        if levels is None:
            return 1e-4 * float(self.examples.var(axis=0).mean())
        return (self.quantization.width / levels) ** 2 / 12.0

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """``count`` independent dequantizations: ``(count, n, d)``; just one for continuous data, which need none."""
        levels, x = self.quantization.num_grey_levels, self.examples.astype(np.float64)
        if levels is None:
            return x[None]
        unit = (x + rng.uniform(size=(count, *x.shape))) / levels
        return 2.0 * unit - 1.0 if self.quantization.centered else unit


def gaussian_mixture_bits_per_dim(
    train: np.ndarray, test: np.ndarray, *, quantization: "Quantization", seed: int = 0
) -> GaussianMixtureBaseline:
    """Bits per dimension of the test set under the best Gaussian mixture for the training set.

    Both sets are integer levels ``(n, height, width, channels)`` or continuous vectors ``(n, d)``; the test set takes
    no part in any choice. The seed decides the dequantization noise, the validation split and the initialization.

    For continuous data, bits are of their density.
    """
    import sklearn.mixture  # noqa: F401  # before the limit, which holds for libraries that are loaded
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    examples = train.reshape(len(train), -1)[rng.permutation(len(train))[:MAX_TRAIN_EXAMPLES]]
    train_data = _Data(examples, quantization)
    # Matrices this small gain nothing from threads, and on busy cores waiting for threads costs tenfold.
    with threadpool_limits(limits=1):
        setting = _choose(train_data, rng, seed)
        mixture = _fit(train_data, setting, rng, draws=DRAWS, seed=seed, restarts=RESTARTS)
        bits = _bits_per_dim(mixture, _Data(test.reshape(len(test), -1), quantization), rng)
    return GaussianMixtureBaseline(
        bits_per_dim=float(bits.mean()),
        std_error=float(bits.std(ddof=1) / math.sqrt(len(bits))) if len(bits) > 1 else math.nan,
        num_components=setting.num_components,
        covariance=setting.covariance,
        seconds=time.perf_counter() - start,
        num_train=len(examples),
    )


def _choose(data: _Data, rng: np.random.Generator, seed: int) -> _Setting:
    """The setting with the best likelihood on the last fifth of the (shuffled) training set."""
    num_held = max(1, int(VALIDATION_FRACTION * len(data.examples)))
    fit = dataclasses.replace(data, examples=data.examples[:-num_held])
    held = dataclasses.replace(data, examples=data.examples[-num_held:])

    def judge(setting: _Setting, draws: int) -> float:
        try:
            value = float(_bits_per_dim(_fit(fit, setting, rng, draws=draws, seed=seed), held, rng).mean())
        except ValueError:  # covariance not positive definite: too little regularization
            return math.inf
        return value if math.isfinite(value) else math.inf

    scores = _scan_components(judge, len(fit.examples))
    ranking = sorted(scores, key=scores.__getitem__)
    factors: dict[str, float] = {}
    for setting in ranking:  # best first: regularization is tuned on the best setting of each covariance type
        if setting.covariance in factors or scores[setting] > scores[ranking[0]] + HOPELESS:
            continue
        tried = {factor: judge(setting._replace(regularization=factor), 1) for factor in REGULARIZATIONS}
        factors[setting.covariance] = min(tried, key=tried.__getitem__)
    finalists = [s._replace(regularization=factors[s.covariance]) for s in ranking if s.covariance in factors]
    return min(finalists[:FINALISTS], key=lambda setting: judge(setting, DRAWS))


def _scan_components(judge: Callable[[_Setting, int], float], num_examples: int) -> dict[_Setting, float]:
    """Validation bits/dim of every covariance type for increasing numbers of components, until more of them hurt."""
    scores: dict[_Setting, float] = {}
    for covariance, counts in COMPONENTS.items():
        best = math.inf
        for components in counts:
            if components > 1 and 2 * components > num_examples:
                break
            setting = _Setting(covariance, components, 1.0)
            scores[setting] = judge(setting, 1)
            if scores[setting] > best + PATIENCE:
                break
            best = min(best, scores[setting])
    return scores


def _fit(
    data: _Data, setting: _Setting, rng: np.random.Generator, *, draws: int, seed: int, restarts: int = 1
) -> "GaussianMixture":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        setting.num_components,
        covariance_type=setting.covariance,
        reg_covar=setting.regularization * data.noise_variance,
        max_iter=MAX_ITERATIONS,
        n_init=restarts,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # An early stop is a form of regularization here, and the validation set judges the outcome.
        warnings.simplefilter("ignore", ConvergenceWarning)
        drawn = data.draw(rng, draws)
        return mixture.fit(drawn.reshape(-1, drawn.shape[-1]))


def _bits_per_dim(mixture: "GaussianMixture", data: _Data, rng: np.random.Generator) -> np.ndarray:
    """Bits per dimension of each example, averaged over draws of its dequantization noise: ``(n,)``."""
    nats = np.mean([mixture.score_samples(x) for x in data.draw(rng, DRAWS)], axis=0)
    return -nats / (data.examples.shape[1] * math.log(2.0)) + data.quantization.offset
