"""Saving where several hosts have the model: all take part, and the chief alone writes.

The state of metrics is a sum over hosts, so each of them has to read it. Threading: the main thread.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any

from tfps.errors import ClusterError, ConfigError
from tfps.keras._compat import keras
from tfps.replicas import multi_worker
from tfps.replicas.strategies import MultiWorkerMirroredStrategy


def is_on_several_hosts(model: keras.Model, *args: object, **kwargs: object) -> bool:
    """Whether several processes have the model."""
    strategy = getattr(model, "_distribute_strategy", None)
    return isinstance(strategy, MultiWorkerMirroredStrategy) and multi_worker.has_peers(strategy)


def save(stock: Callable[..., Any], model: keras.Model, filepath: Any, *args: Any, **kwargs: Any) -> Any:
    """Replaces `save`, `save_weights` and `export`: the chief writes, and all return when the file is there.

    Raises:
        ClusterError: the chief could not write.
    """
    strategy = model._distribute_strategy
    is_chief = multi_worker.is_chief(strategy)
    failure = None
    result = None
    with tempfile.TemporaryDirectory(prefix="tfps-") as folder:
        place = filepath if is_chief else os.path.join(folder, os.path.basename(os.fspath(filepath)))
        try:
            result = stock(model, place, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 raised below, when the others know
            failure = error
    failures = multi_worker.sum_over_hosts(strategy, int(failure is not None))
    if failure is not None:
        raise failure
    if failures:
        raise ClusterError(f"another worker could not save the model to {os.fspath(filepath)!r}: see its log.")
    return result


def holds_model(callback: keras.callbacks.Callback, *args: object, **kwargs: object) -> bool:
    """Whether several processes have the model of a callback."""
    return callback.model is not None and is_on_several_hosts(callback.model)


def restore(stock: Callable[..., Any], callback: keras.callbacks.BackupAndRestore, logs: Any = None) -> None:
    """Replaces `on_train_begin` of BackupAndRestore: all hosts have to begin with the same epoch.

    Raises:
        ConfigError: they do not, because they cannot read the same backup.
    """
    stock(callback, logs)
    strategy = callback.model._distribute_strategy
    epoch = int(callback.model._initial_epoch or 0)
    first = multi_worker.value_of_chief(strategy, epoch)
    if multi_worker.sum_over_hosts(strategy, int(epoch != first)):
        raise ConfigError(
            "`backup_dir` must be a folder that all workers read, because all go on with the same epoch. "
            f"Received: {callback.backup_dir!r}, where this worker found epoch {epoch} and the chief epoch {first}."
        )


def back_up(stock: Callable[..., Any], callback: keras.callbacks.BackupAndRestore, *args: Any, **kwargs: Any) -> None:
    """Replaces `_save_model` of BackupAndRestore: the chief writes the folder."""
    if multi_worker.is_chief(callback.model._distribute_strategy):
        stock(callback, *args, **kwargs)
    else:
        callback.model.save_weights(callback._weights_path, overwrite=True)


def remove_backup(stock: Callable[..., Any], callback: keras.callbacks.BackupAndRestore, logs: Any = None) -> None:
    """Replaces `on_train_end` of BackupAndRestore: the chief removes the folder once all need it no more."""
    strategy = callback.model._distribute_strategy
    multi_worker.sum_over_hosts(strategy, 0)
    if multi_worker.is_chief(strategy):
        stock(callback, logs)
    # It is gone when this returns, on every worker.
    multi_worker.sum_over_hosts(strategy, 0)
