"""Small files: written atomically, read without trust, in directories with one writer at a time."""

from score_sde.files.arrays import array_names, atomic_savez, read_arrays
from score_sde.files.atomic import (
    ELSEWHERE,
    Growing,
    atomic_path,
    atomic_write_json,
    atomic_write_text,
    jsonable,
    move,
    refusal,
    replacing,
    writing,
)
from score_sde.files.buckets import Bucket, check_bucket, failures, fetched
from score_sde.files.locks import check_writable, one_at_a_time, only_writer, remove_abandoned
from score_sde.files.reading import (
    Unreadable,
    parse_json,
    parse_json_line,
    read_bytes,
    read_json,
    read_json_lines,
    reason_of,
)

__all__ = [
    "ELSEWHERE",
    "Bucket",
    "Growing",
    "Unreadable",
    "array_names",
    "atomic_path",
    "atomic_savez",
    "atomic_write_json",
    "atomic_write_text",
    "check_bucket",
    "check_writable",
    "failures",
    "fetched",
    "jsonable",
    "move",
    "one_at_a_time",
    "only_writer",
    "parse_json",
    "parse_json_line",
    "read_arrays",
    "read_bytes",
    "read_json",
    "read_json_lines",
    "reason_of",
    "refusal",
    "remove_abandoned",
    "replacing",
    "writing",
]
