"""Saves and restores Keras models by the servers that hold their rows: `tfps.checkpoint.save` and `restore`."""

import contextlib
import dataclasses
import datetime
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfps.checks import check_list, check_type
from tfps.cluster import devices
from tfps.errors import CheckpointError
from tfps.keras.model_content import content_of, device_of, strategy_of
from tfps.keras.modes import settings_of
from tfps.keras.optimizers import leading_optimizer, optimizers_of
from tfps.keras.rebalancing import placement_entry
from tfps.keras.steps_of_models import steps_of
from tfps.saving import reader, writer
from tfps.saving.content import Content
from tfps.saving.interface import Folder, Stored
from tfps.saving.locations import locate, locate_latest
from tfps.saving.manifest import Manifest
from tfps.saving.rows import AllRows, CopiedRows, Rows, TouchedRows, servers_of
from tfps.strategy.strategy import ParameterServerStrategy
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
    write(prepare(model, {}), folder, name)


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
    read(model, open_chain(*locate_latest(path)), names)


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


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a checkpoint will have, of one moment.

    Args:
        content: the variables.
        dense: returns the value of a dense variable, by its name.
        rows: the rows of the tables to write.
        strategy: the strategy that has the tables.
        step: the number of training steps.
        progress: where training is, as JSON.
        versions: of what writes it.
        base: the checkpoint that it is a delta of, by name and manifest; None for a complete one.
    """

    content: Content
    dense: Callable[[str], np.ndarray[Any, Any]]
    rows: Rows
    strategy: ParameterServerStrategy | None
    step: int
    progress: Mapping[str, Any]
    versions: Mapping[str, str]
    base: tuple[str, Manifest] | None = None


def prepare(
    model: keras.Model,
    progress: Mapping[str, Any],
    step: int | None = None,
    *,
    copies: bool = False,
    touched: Sequence[np.ndarray[Any, Any]] | None = None,
    base: tuple[str, Manifest] | None = None,
) -> Prepared:
    """Prepares a checkpoint of a model, of the moment when the steps under way have ended.

    Args:
        model: the model.
        progress: where training is, as JSON.
        step: the number of training steps before it; None for what the optimizers have counted.
        copies: whether to copy all values, so that the model may change while they are written. Each server needs
            memory for a copy of the rows to write.
        touched: for each table of `content_of(model)`, the ids of the rows to write; None for all rows.
        base: the checkpoint that these rows are the difference to, by name and manifest.
    """
    # All of it is of this moment: no step changes anything until the values are read or copied.
    settle(model)
    strategy, content = strategy_of(model), content_of(model)
    rows: Rows = AllRows(content.tables) if touched is None else TouchedRows(content.tables, touched)
    dense: Callable[[str], np.ndarray[Any, Any]] = content.read
    if copies:
        # The values of now: a server's later ones must not be read in the background.
        dense = {name: np.array(content.read(name)) for name in content.dense}.__getitem__
        if strategy is not None:
            rows = CopiedRows(rows, servers_of(content.tables), strategy)
    count = trained_steps(model) if step is None else step
    if strategy is not None:
        progress = {**progress, **placement_entry(strategy)}
    return Prepared(content, dense, rows, strategy, count, progress, _versions(model), base)


def write(prepared: Prepared, folder: Folder, name: str) -> Manifest:
    """Writes a checkpoint that was prepared. Any thread may do that.

    Args:
        prepared: what it will have.
        folder: the folder of the checkpoint.
        name: its name in the folder.
    """
    began = time.monotonic()
    draft = folder.begin(name)
    try:
        written = writer.write(prepared.content, prepared.dense, prepared.rows, draft, prepared.strategy)
        base, base_manifest = prepared.base or (None, None)
        manifest = Manifest(
            step=prepared.step,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            writer=prepared.versions,
            base=base,
            base_checksum=None if base_manifest is None else base_manifest.checksum,
            progress=prepared.progress,
            variables=tuple(written.variables),
            tables=tuple(written.tables),
            files=written.files,
        )
        draft.finish(manifest)
    # Also after an interrupt: a draft that is left behind would only take room.
    except BaseException:
        draft.discard()
        raise
    seconds = time.monotonic() - began
    if prepared.strategy is not None:
        prepared.strategy.record.record_checkpoint(manifest.step, seconds, draft.path)
    _LOG.info("wrote %s: %s in %.1f s.", draft.path, _describe(manifest), seconds)
    return manifest


def open_chain(folder: Folder, name: str) -> list[Stored]:
    """Opens a checkpoint, and before it those that it is a delta of, the complete one first.

    Raises:
        CheckpointError: one of them is missing, broken, or not the one that the next was written after.
    """
    chain = [folder.open(name)]
    while (base := chain[0].manifest.base) is not None:
        # Names of a chain differ, so a ring would be one of another program.
        if base in [name, *(one.manifest.base for one in chain[1:])]:
            raise CheckpointError(f"{chain[0].path} is broken: it is a delta of itself.")
        stored = folder.open(base)
        if stored.manifest.checksum != chain[0].manifest.base_checksum:
            raise CheckpointError(f"{chain[0].path} is a delta of another checkpoint than {stored.path}.")
        chain.insert(0, stored)
    return chain


def read(
    model: keras.Model,
    chain: Sequence[Stored],
    only: Sequence[str] | None = None,
    servers: Collection[int] | None = None,
) -> None:
    """Gives a model the values of a checkpoint. Steps under way end before.

    Args:
        model: the model.
        chain: the checkpoint, and before it those that it is a delta of.
        only: names of layers or variables; None for all.
        servers: the servers whose rows and variables are restored; None for all variables.
    """
    began, stored = time.monotonic(), chain[-1]
    strategy = strategy_of(model)
    settle(model)
    content = content_of(model)
    pairs = reader.match(stored.manifest, content, stored.path, only)
    if servers is not None:
        held = {devices.server(server) for server in servers}
        away = {name for name, one in content.dense.items() if not held.intersection([device_of(one)])}
        pairs = {name: other for name, other in pairs.items() if name not in away}
    # Outside of any step or scope: variables are assigned as by a user.
    with contextlib.nullcontext() if strategy is None else tf.init_scope():
        reader.restore(chain, content, pairs, strategy, servers)
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
