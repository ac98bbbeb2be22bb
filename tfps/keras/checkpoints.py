"""Saves and restores Keras models by the servers that hold their rows: `tfps.checkpoint.save` and `restore`."""

import contextlib
import datetime
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps.checks import check_list, check_type
from tfps.errors import CheckpointError
from tfps.keras.model_content import content_of, strategy_of
from tfps.keras.modes import settings_of
from tfps.keras.optimizers import leading_optimizer, optimizers_of
from tfps.keras.steps_of_models import steps_of
from tfps.saving import reader, writer
from tfps.saving.folders import Folder, Stored
from tfps.saving.locations import locate, open_folder
from tfps.saving.manifest import Manifest
from tfps.version import __version__

_LOG = logging.getLogger("tfps")


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Saves the values of a model: weights, optimizer slots, counters, random states and metrics.

    The rows of tables are written by their servers, in parallel, and never pass through the chief. It needs memory for
    the dense variables and, where servers do not share the folder, for one part of 64 MB. The checkpoint is complete
    or not there: it is written under another name and renamed.

    Args:
        model: a built Keras model, of any strategy or none.
        path: the path or URL of the new checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be written: it exists, the disk is full, or the folder is not writable.
        ClusterError: a server died, or did not answer in time.
    """
    check_model(model)
    folder, name = locate(path)
    write(model, folder, name, {})


def restore(model: keras.Model, path: str | os.PathLike[str], *, only: Sequence[str] | None = None) -> None:
    """Gives a model the values of a checkpoint that `save` or `tfps.callbacks.Checkpoint` has written.

    The number of servers may differ, and the model may be of another strategy or of none: a table is then a variable.

    Args:
        model: a built Keras model with the same layers. If it is not compiled, the optimizer is left out.
        path: the path or URL of the checkpoint, or of a folder of checkpoints, whose latest is used.
        only: names of layers or variables to restore; None for all. Tables come with their slots.

    Raises:
        CheckpointError: there is no checkpoint, a file of it is broken, or it is of another model.
        ClusterError: a server died, or did not answer in time.
    """
    check_model(model)
    names = None if only is None else [str(name) for name in check_list("only", only, "a list of names of layers")]
    stored = locate_latest(path)
    if stored is None:
        folder, name = locate(path)
        stored = folder.open(name)
    read(model, stored, names)


def locate_latest(path: str | os.PathLike[str]) -> Stored | None:
    """Opens the latest checkpoint of the folder at a path; None if it is no folder of checkpoints."""
    run = open_folder(path)
    latest = run.latest()
    return run.open(latest) if latest is not None and latest in run.names() else None


def check_model(model: keras.Model) -> None:
    """Checks an argument `model`.

    Raises:
        ConfigError: it is no Keras model.
        CheckpointError: it is not built.
    """
    check_type("model", model, keras.Model, "a Keras model")
    if not model.built:
        raise CheckpointError(
            "`model` must be built. Received: a model without variables. Valid: call it once, or `model.build(shape)`."
        )


def trained_steps(model: keras.Model) -> int:
    """Returns the number of steps that a model has been trained for, as its optimizers count them."""
    return max((int(optimizer.iterations) for optimizer in optimizers_of(model)), default=0)


def settle(model: keras.Model) -> None:
    """Waits for the steps under way of a model, so that its values are of one moment."""
    if strategy_of(model) is not None:
        steps_of(model).settle()


def write(
    model: keras.Model, folder: Folder, name: str, progress: Mapping[str, Any], step: int | None = None
) -> Manifest:
    """Writes a checkpoint of a model, of the moment when the steps under way have ended.

    Args:
        model: the model.
        folder: the folder of the checkpoint.
        name: its name in the folder.
        progress: where training is, as JSON.
        step: the number of training steps before it; None for what the optimizers have counted.
    """
    began = time.monotonic()
    strategy = strategy_of(model)
    settle(model)
    content = content_of(model)
    draft = folder.begin(name)
    try:
        written = writer.write(content, draft, strategy)
        manifest = Manifest(
            step=trained_steps(model) if step is None else step,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            writer=_versions(model),
            base=None,
            progress=progress,
            variables=tuple(written.variables),
            tables=tuple(written.tables),
            files=written.files,
        )
        draft.finish(manifest)
    except BaseException:
        draft.discard()
        raise
    _LOG.info("wrote %s: %s in %.1f s.", draft.path, _describe(manifest), time.monotonic() - began)
    return manifest


def read(model: keras.Model, stored: Stored, only: Sequence[str] | None = None) -> None:
    """Gives a model the values of a checkpoint. Steps under way end before.

    Args:
        model: the model.
        stored: the checkpoint.
        only: names of layers or variables; None for all.
    """
    began = time.monotonic()
    strategy = strategy_of(model)
    settle(model)
    content = content_of(model)
    pairs = reader.match(stored.manifest, content, stored.path, only)
    # Outside of any step or scope: variables are assigned as by a user.
    with contextlib.nullcontext() if strategy is None else tf.init_scope():
        reader.restore(stored, content, pairs, strategy)
    _LOG.info("restored %s: %s in %.1f s.", stored.path, _describe(stored.manifest), time.monotonic() - began)


def _versions(model: keras.Model) -> dict[str, str]:
    optimizer = leading_optimizer(model)
    settings = None if optimizer is None else settings_of(optimizer)
    return {
        "tfps": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "mode": "Asynchronous" if settings is None else type(settings).__name__,
        "strategy": type(model._distribute_strategy).__name__,
    }


def _describe(manifest: Manifest) -> str:
    rows = sum(table.routing.rows for table in manifest.tables)
    return f"step {manifest.step}, {len(manifest.tables)} tables with {rows:,} rows, {manifest.bytes / 1e6:,.1f} MB"
