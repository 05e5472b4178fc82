"""Checkpoints: state, data iterator and configuration, written atomically; damaged ones fall back to earlier ones."""

from score_sde.checkpointing.run import (
    Check,
    Checkpoints,
    CheckpointWriter,
    Restored,
    double_precision,
    edited_record,
    newest_config,
)
from score_sde.checkpointing.snapshots import DamagedSnapshot, Snapshots, SnapshotWriter
from score_sde.checkpointing.storage import NotFinite

__all__ = [
    "Check",
    "CheckpointWriter",
    "Checkpoints",
    "DamagedSnapshot",
    "NotFinite",
    "Restored",
    "SnapshotWriter",
    "Snapshots",
    "double_precision",
    "edited_record",
    "newest_config",
]
