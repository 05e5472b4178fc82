"""Data: names to sources, sources to batches.

Importing this package costs NumPy only; grain, tensorflow-datasets, scikit-learn and Pillow are imported when a
source or pipeline that needs them is made.
"""

from score_sde.data.base import ArraySource, Source, SourceInfo
from score_sde.data.description import describe, tell
from score_sde.data.feed import Feed
from score_sde.data.identity import DataRecord, fingerprint
from score_sde.data.pipeline import EvalBatch, TrainBatch, TrainIterator, eval_batches, make_train_iterator
from score_sde.data.records import write_array_records
from score_sde.data.sources import load_source, source_info
from score_sde.data.standardizing import STANDARDIZATIONS, column_statistics
from score_sde.data.transforms import check_images, random_flip

__all__ = [
    "STANDARDIZATIONS",
    "ArraySource",
    "DataRecord",
    "EvalBatch",
    "Feed",
    "Source",
    "SourceInfo",
    "TrainBatch",
    "TrainIterator",
    "check_images",
    "column_statistics",
    "describe",
    "eval_batches",
    "fingerprint",
    "load_source",
    "make_train_iterator",
    "random_flip",
    "source_info",
    "tell",
    "write_array_records",
]
