"""Snapshots and records for tests."""

from tfps.monitoring.record import JobRecord
from tfps.monitoring.snapshot import (
    Bottleneck,
    CacheState,
    CheckpointState,
    LossEvent,
    ServerState,
    Snapshot,
    TableState,
    TaskState,
)
from tfps.types import CachedCounts

TASKS = (("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1))


def full_snapshot(**changed):
    """A snapshot in which no field is left out."""
    fields = {
        "at": 1_000.5,
        "began": 990.0,
        "name": "train.py",
        "pid": 4711,
        "host": "node-1",
        "version": "0.1.0",
        "phase": "train",
        "mode": "geo",
        "epoch": 1,
        "epochs": 3,
        "epoch_step": 20,
        "steps_per_epoch": 500,
        "steps": 520,
        "repeated_steps": 12,
        "examples": 33_280,
        "unique_rows": 52_000,
        "test_steps": 7,
        "closures": 40,
        "steps_per_s": 12.5,
        "examples_per_s": 800.0,
        "unique_rows_per_s": 1_250.0,
        "metrics": {"loss": 0.25, "auc": None},
        "tasks": (
            TaskState("chief", 0, "node-1", 4711, "up", 0.5, 2, 900_000_000),
            TaskState("ps", 0, "node-1", 4712, "up", 0.5, 2, 300_000_000, received_bytes_per_s=5e6),
            TaskState("worker", 0, "node-2", 99, "up", 1.0, 4, 10**9, 260, 16_640, 6.25, 400.0, 3, 1, 2e6, 1e6),
            TaskState("worker", 1, status="lost", steps=260, examples=16_640),
        ),
        "tables": (
            TableState("users/embeddings", 100_000, 64, 12_800_000, (0, 1), 512.0, 4.5e6),
            TableState("items/embeddings", 90, 64, 9_000, (0,), 512.0, 4.5e6, True, 100, 5, 10),
        ),
        "servers": (ServerState(0, 6_400_000, 0.5, 0.6), ServerState(1, 6_400_000, 0.5, 0.4)),
        "drift": {"geo_delta_norm": 0.5},
        "checkpoint": CheckpointState(500, 995.0, 0.5, "/run/ckpt-500", 5),
        "losses": (LossEvent("worker", 0, 991.0, "killed", 994.0), LossEvent("worker", 1, 999.0, "gone")),
        "losses_count": 2,
        "bottleneck": Bottleneck("servers", "The parameter servers are the bottleneck. Add servers."),
        "cache": CacheState(50_000, 30_000, 2_160_000, 0.75, 54_000.0),
    }
    return Snapshot(**{**fields, **changed})


def full_record():
    """A record in which everything has happened once."""
    record = JobRecord()
    record.begin_epoch("asynchronous", 0, 3, 500)
    record.count_closure("train", 0, 4, 256, 1_000, CachedCounts(900, 600, 43_200))
    record.count_closure("train", 1, 4, 256)
    record.count_closure("train", 0, 4, 250)
    record.take_back(3)
    record.count_closure("test", 1, 2, 100)
    record.record_checkpoint(12, 0.5, "/run/ckpt-12")
    record.record_loss("worker", 1, "killed")
    record.record_return("worker", 1)
    return record
