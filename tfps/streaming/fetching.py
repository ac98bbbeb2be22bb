"""Copies files of object stores to the disk of the task that reads them, where every reader of `tf.data` opens them.

Threading: TensorFlow's threads, several at once; two that want the same file wait for one copy.
"""

import atexit
import functools
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.cluster import worker_functions
from tfps.errors import SourceError, TfpsError
from tfps.streaming.listing import open_store

_NAME = "tfps-files-"
_KEPT_WINDOWS = 2
"""The number of windows whose files stay: the one that is read, and the one before, which a reader may still use."""

_lock = threading.Lock()
_windows: dict[str, list[str]] = {}
"""The keys of the windows whose files are here, the oldest first, for each stream; `_lock` guards it."""


def fetched(
    paths: tf.data.Dataset, stream: str, window: str, options: dict[str, Any], on_chief: bool
) -> tf.data.Dataset:
    """Returns the paths of copies of files, made when a task reads their paths.

    Args:
        paths: the URLs of the files.
        stream: a name of the stream, whose old files are removed.
        window: a key of the window.
        options: what fsspec needs, as JSON.
        on_chief: whether only this process sees the files; it then reads them and feeds the workers.
    """
    keys = [stream, window, json.dumps(options)]

    def fetch(url: tf.Tensor) -> tf.Tensor:
        inputs = [url, *map(tf.constant, keys)]
        if on_chief:
            path = tf.numpy_function(_fetch, inputs, tf.string)
        else:
            (path,) = worker_functions.call(__name__, "fetch_file", inputs, [tf.string])
        return tf.ensure_shape(path, [])

    return paths.map(fetch)


def _fetch(url: bytes, stream: bytes, window: bytes, options: bytes) -> bytes:
    """Copies a file, unless it is here, and returns its path.

    Raises:
        SourceError: it cannot be read.
    """
    address, key = url.decode(), window.decode()
    with _lock:
        folder = _folder_of(stream.decode(), key)
        # The name stays as it is, because readers may look at it.
        name = address.rstrip("/").rpartition("/")[2]
        target = folder / hashlib.blake2b(url, digest_size=8).hexdigest() / name
        # Found here and held outside of `_lock`, so that other files are copied meanwhile.
        file_lock = _lock_of(str(target))
    with file_lock:
        if not target.exists():
            _copy(address, json.loads(options), target)
    return str(target).encode()


def _copy(url: str, options: dict[str, Any], target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name for each thread: the cache of locks is bounded, so two threads may have two locks for one file.
    partial = target.with_name(f"{target.name}.{threading.get_ident()}.partial")
    try:
        store, path = open_store(url, options)
        store.get_file(path, str(partial))
        # A reader that finds the file finds all of it.
        os.replace(partial, target)
    except TfpsError:
        raise
    # Each file system raises errors of its own.
    except Exception as error:
        raise SourceError(f"the file {url!r} of the stream cannot be read: {error or type(error).__name__}.") from None
    finally:
        # Gone where all went well.
        partial.unlink(missing_ok=True)


def _folder_of(stream: str, window: str) -> pathlib.Path:
    """Returns the folder for the files of a window, and removes those of old windows."""
    keys = _windows.setdefault(stream, [])
    own = _own_folder() / hashlib.blake2b(stream.encode(), digest_size=8).hexdigest()
    if window not in keys:
        # A window that is read again, by its training after its test, keeps its files.
        keys.append(window)
        for old in keys[:-_KEPT_WINDOWS]:
            shutil.rmtree(own / _folder_name(old), ignore_errors=True)
        del keys[:-_KEPT_WINDOWS]
    return own / _folder_name(window)


def _folder_name(window: str) -> str:
    return hashlib.blake2b(window.encode(), digest_size=8).hexdigest()


@functools.cache
def _own_folder() -> pathlib.Path:
    """Makes the folder of this process, and removes those of processes that were killed."""
    for old in pathlib.Path(tempfile.gettempdir()).glob(f"{_NAME}*"):
        pid = old.name.removeprefix(_NAME).partition("-")[0]
        # A number that another process has got since keeps its folder for another time.
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(old, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


@functools.lru_cache(maxsize=1000)
def _lock_of(target: str) -> threading.Lock:
    return threading.Lock()


def _fetch_file(url: bytes, stream: bytes, window: bytes, options: bytes) -> Sequence[np.ndarray[Any, Any]]:
    return [np.array(_fetch(url, stream, window, options), object)]


WORKER_FUNCTIONS = {"fetch_file": _fetch_file}
