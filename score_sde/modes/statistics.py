"""Reference statistics of a data set, for comparison with samples."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from score_sde.data import SourceInfo, fingerprint, tell
from score_sde.errors import UserError, plural
from score_sde.evaluation.metrics import data_statistics, extractor_of
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, check_writable, only_writer
from score_sde.metrics import ReferenceStatistics, read_statistics, write_statistics
from score_sde.metrics.extractors import Extractor
from score_sde.modes.workdir import data_info, load_split, machine, measured_split, standardization_of, summarize
from score_sde.training.writers import ProgressBar, compiling

log = logging.getLogger(__name__)

FILE = "statistics.npz"


def run_stats(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Statistics of a split of the data, for sample metrics: ``statistics.npz``, ``statistics.json``."""
    measured_split(config, workdir, config.evaluation.reference_split)  # warns if these are not the data of the run
    info = data_info(config)
    extractor = extractor_of(config, info, standardization_of(config, info, workdir))
    compute_statistics(config, out or workdir, command, extractor)
    summarize(workdir, out or workdir)


def compute_statistics(config: Settings, workdir: Path, command: str, extractor: Extractor) -> ReferenceStatistics:
    """Compute and write the statistics."""
    settings = config.evaluation
    source = load_split(config, settings.reference_split)
    total = min(settings.reference_examples or len(source), len(source))
    check_writable(workdir)
    tell({settings.reference_split: source})
    compiling("the extractor")
    start = time.perf_counter()
    with (
        only_writer(workdir, "stats", doing=f"computing statistics in {workdir}"),
        ProgressBar(total=total, description="statistics") as bar,
    ):
        statistics, images = data_statistics(
            source,
            extractor,
            split=settings.reference_split,
            limit=settings.reference_examples,
            keep_features=settings.keep_features,
            progress=bar.advance,
        )
        report = {
            "source": statistics.source,
            "split": statistics.split,
            "num_examples": statistics.count,
            "examples_sha256": images,
            "shape": list(statistics.shape or ()),
            "num_levels": statistics.num_levels,
            "extractor": statistics.extractor,
            "extractor_sha256": statistics.extractor_sha256,
            "num_features": statistics.moments.mean.size,
            "features_kept": 0 if statistics.features_subset is None else len(statistics.features_subset),
            "statistics_sha256": statistics.sha256,
            "seconds": time.perf_counter() - start,
            **machine(command),
        }
        # The arrays are written last: while they are missing, both files are written again.
        atomic_write_json(workdir / "statistics.json", report)
        write_statistics(workdir / FILE, statistics)
    measured = f"{total} {plural(total, 'example')} of {statistics.source} ({statistics.split})"
    log.info("Wrote %s: %s by %s, %.1f s.", workdir / FILE, measured, statistics.extractor, report["seconds"])
    return statistics


def load_reference(
    config: Settings, places: Sequence[Path], command: str, info: SourceInfo, extractor: Extractor
) -> ReferenceStatistics:
    """The reference statistics for samples: from a file, or from the data, computed once.

    They are searched in several places; if computed, they are written to the first.

    Raises:
        UserError: If the file ``config.evaluation.reference`` cannot be read or is of another extractor.
    """
    settings = config.evaluation
    if settings.reference:
        # Files of other systems do not name their extractor; by configuring it, the user vouches for the match.
        return read_statistics(Path(settings.reference), extractor=extractor.name)
    for path in (place / FILE for place in places):
        if not path.is_file():
            continue
        try:
            found = read_statistics(path)
        except UserError as error:
            log.warning("%s They are computed again.", error)
            continue
        if not (changes := _changes(found, config, info, extractor)):
            return found
        log.info("%s is of another %s; computing it again.", path, ", ".join(changes))
    return compute_statistics(config, places[0], command, extractor)


def _changes(found: ReferenceStatistics, config: Settings, info: SourceInfo, extractor: Extractor) -> list[str]:
    settings = config.evaluation
    source = load_split(config, settings.reference_split)
    count = min(settings.reference_examples or len(source), len(source))
    # Files of an earlier version identify the data by name only.
    ours = (info.name, None) if found.contents is None else (found.source, fingerprint(source))
    kept = 0 if found.features_subset is None else len(found.features_subset)
    pairs = {
        "extractor": ((found.extractor, found.extractor_sha256), (extractor.name, extractor.sha256)),
        "data set": ((found.source, found.contents, found.split), (*ours, settings.reference_split)),
        "shape": ((found.shape, found.num_levels), (info.shape, info.num_grey_levels)),
        "number of examples": (found.count, count),
        "number of features kept": (kept, min(settings.keep_features, count)),
    }
    return [name for name, (old, new) in pairs.items() if old != new]
