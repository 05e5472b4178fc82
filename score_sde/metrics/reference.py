"""Statistics of a reference set, and their files: our own and other systems'."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import UserError
from score_sde.files import Unreadable, atomic_savez, parse_json, read_arrays, reason_of
from score_sde.metrics.checks import finite_rows
from score_sde.metrics.frechet import Moments, moments

#: Fields that a file of another system lacks.
NOT_STATED = "not stated by the file"
_FORMAT = "score_sde reference statistics 1"
_NAMES = ("about", "mean", "covariance", "features", "pool_3", "mu", "sigma")
_ROUNDING = 1e-5  # of a covariance in single precision, with room to spare, relative to its Frobenius norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceStatistics:
    """Moments of the features of a reference set, optionally some of the features, and their provenance.

    >>> features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    >>> reference = ReferenceStatistics(moments=moments(features), features_subset=features[:5], extractor="mine",
    ...     extractor_sha256="ab" * 32, source="digits", split="train", count=20, shape=(8, 8, 1), num_levels=17)
    >>> len(reference.sha256)
    64
    """

    moments: Moments
    features_subset: np.ndarray | None  # (some, d); for the metrics that need examples
    extractor: str
    extractor_sha256: str
    source: str  # the data set
    split: str
    count: int | None  # examples behind the moments; None where a file does not state it
    shape: tuple[int, ...] | None  # of an example; None where a file does not state it
    num_levels: int | None
    contents: str | None = None  # fingerprint of the data set, from which the digest does not follow; None if not known

    @functools.cached_property
    def sha256(self) -> str:
        """A digest of the arrays and their description; equal references have equal digests."""
        digest = hashlib.sha256(json.dumps(self._about(), sort_keys=True).encode())
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _about(self) -> dict[str, Any]:
        arrays = ("moments", "features_subset", "contents")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in arrays}
        shape = None if self.shape is None else list(self.shape)
        return fields | {"format": _FORMAT, "num_examples": self.moments.num_examples, "shape": shape}

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            "mean": self.moments.mean.astype("<f8"),
            "covariance": self.moments.covariance.astype("<f8"),
        }
        if self.features_subset is not None:
            arrays["features"] = self.features_subset.astype("<f4")
        return arrays


def write_statistics(path: Path, statistics: ReferenceStatistics) -> None:
    """Write statistics as an ``.npz`` file without pickles, whole or not at all.

    Raises:
        UserError: If the system refuses to write, and if the statistics are not finite or their shapes disagree.
    """
    _check(statistics, path)
    about = json.dumps(statistics._about() | {"sha256": statistics.sha256, "contents": statistics.contents})
    atomic_savez(path, about=np.array(about), **statistics._arrays())


def read_statistics(
    path: Path,
    *,
    extractor: str | None = None,
    source: str = NOT_STATED,
    split: str = NOT_STATED,
    count: int | None = None,
    shape: tuple[int, ...] | None = None,
    num_levels: int | None = None,
) -> ReferenceStatistics:
    """Read statistics that this package, the original score_sde, EDM or pytorch-fid has written.

    The original score_sde stores all features as ``pool_3``, EDM and pytorch-fid store ``mu`` and ``sigma``. None of
    them names the network, so its name must be given; the other arguments supply other known facts. Our own files are
    complete, and given arguments must agree with them.

    Raises:
        UserError: For a file that is missing, damaged or of unknown form; arrays that are not finite or whose shapes
            disagree; a missing extractor for a file that does not name one; and arguments that contradict a file.
    """
    arrays = read_arrays(path, _NAMES, remedy="expected reference statistics (.npz); fetch or compute them again")
    if arrays is None:
        raise UserError(
            f"There is no file {path}; expected reference statistics (.npz); check the path or compute them."
        )
    given: dict[str, Any] = {"extractor": extractor, "source": source, "split": split, "count": count, "shape": shape}
    given["num_levels"] = num_levels
    if "about" in arrays:
        statistics = _ours(path, arrays)
        for name, value in given.items():
            stated = getattr(statistics, name)
            if value not in (None, NOT_STATED, stated):
                raise UserError(f"{path} has {name} {stated}, and {value} was given; use the statistics of {value}.")
    else:
        if extractor is None:
            raise UserError(
                f"{path} does not say which extractor its features are from; expected its name; pass extractor, such "
                "as the one that the system that wrote it uses."
            )
        found, features = _foreign(path, arrays, count)
        known = given | {"count": found.num_examples or None, "extractor_sha256": NOT_STATED}
        statistics = ReferenceStatistics(moments=found, features_subset=features, **known)
    _check(statistics, path)
    return statistics


def _ours(path: Path, arrays: Mapping[str, np.ndarray]) -> ReferenceStatistics:
    try:
        about = parse_json(str(arrays["about"]))
        stated, num_examples, form = about.pop("sha256"), about.pop("num_examples"), about.pop("format")
        about["shape"] = None if about["shape"] is None else tuple(about["shape"])
        statistics = ReferenceStatistics(
            **about,
            moments=Moments(arrays["mean"], arrays["covariance"], num_examples),
            features_subset=arrays.get("features"),
        )
        intact = form == _FORMAT and stated == statistics.sha256
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"it is not whole: {reason_of(error)}"
        raise Unreadable(path, reason, f"expected {_FORMAT}; compute the statistics again") from error
    if not intact:
        raise UserError(
            f"{path} is of the form {form!r} and its contents do not have the digest it states, or it is of another "
            f"version; expected {_FORMAT!r}; compute the statistics again."
        )
    return statistics


def _foreign(path: Path, arrays: Mapping[str, np.ndarray], count: int | None) -> tuple[Moments, np.ndarray | None]:
    if "pool_3" in arrays:
        features = finite_rows(arrays["pool_3"], f"features in {path}")
        if count is not None and count != len(features):
            raise UserError(f"{path} has {len(features)} examples, and a count of {count} was given; leave count out.")
        return moments(features), features
    if "mu" in arrays and "sigma" in arrays:
        return Moments(_double(arrays["mu"]), _double(arrays["sigma"]), count or 0), None
    raise UserError(
        f"{path} holds none of the arrays of reference statistics (found of them: {sorted(arrays) or 'none'}); "
        "expected those of this package, pool_3 (score_sde), or mu and sigma (EDM, pytorch-fid); compute the "
        "statistics again."
    )


def _double(array: np.ndarray) -> np.ndarray:
    """In double precision; anything but numbers is returned unchanged, for the check to refuse."""
    return array.astype(np.float64) if array.dtype.kind in "fiu" else array


def _check(statistics: ReferenceStatistics, path: Path) -> None:
    mean, covariance, _ = statistics.moments
    features = statistics.features_subset
    if mean.ndim != 1 or mean.size == 0 or covariance.shape != (mean.size, mean.size):
        raise UserError(
            f"The statistics of {path} have a mean of shape {mean.shape} and a covariance of {covariance.shape}; "
            "expected (d,) and (d, d); compute them again."
        )
    if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise UserError(f"The statistics of {path} are {mean.dtype} and {covariance.dtype}; expected numbers.")
    broken = int((~np.isfinite(mean)).sum() + (~np.isfinite(covariance)).sum())
    if broken:
        raise UserError(f"{broken} numbers in the statistics of {path} are NaN or infinite; compute them again.")
    _check_covariance(covariance, path)
    if features is not None and finite_rows(features, f"features of {path}").shape[1] != mean.size:
        raise UserError(
            f"The features of {path} have shape {features.shape} and its mean {mean.shape}; expected one dimension; "
            "compute the statistics again."
        )


def _check_covariance(covariance: np.ndarray, path: Path) -> None:
    """Refuse a matrix that cannot be a covariance: not symmetric, or with a negative eigenvalue, beyond rounding."""
    remedy = "expected a covariance; compute the statistics again"
    with np.errstate(over="ignore"):
        norm, turned = np.linalg.norm(covariance), np.linalg.norm(covariance - covariance.T)
    if not np.isfinite(norm):
        raise UserError(f"The numbers in the statistics of {path} are too large to compute with; compute them again.")
    if turned > _ROUNDING * norm:
        raise UserError(f"The covariance in {path} is not symmetric; {remedy}.")
    if norm:
        try:
            np.linalg.cholesky(covariance + _ROUNDING * norm * np.eye(len(covariance)))
        except np.linalg.LinAlgError as error:
            raise UserError(f"The covariance in {path} has negative eigenvalues; {remedy}.") from error
