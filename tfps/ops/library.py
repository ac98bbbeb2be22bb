"""Finds and loads the library of C++ ops, or raises an error that says why it cannot."""

import functools
import json
import threading
from pathlib import Path
from types import ModuleType

import tensorflow as tf

from tfps import env
from tfps.errors import LibraryError

LIBRARY = Path(__file__).with_name("_tfps_ops.so")
BUILD_INFO = Path(__file__).with_name("_build_info.json")

# Guards the first load: TensorFlow registers an op only once, and two threads may call `load` at the same time.
_lock = threading.Lock()


def load() -> ModuleType | None:
    """Loads the library once per process and returns the module of its op functions.

    Every process that runs a graph with these ops must call it, servers and workers included. A graph refers to its ops
    by name, and a process that has not loaded them fails with "Op type not registered".

    Returns:
        The module, or None if the library was never built or `TFPS_DISABLE_OPS=1` is set.

    Raises:
        LibraryError: the library was built against another version of TensorFlow, or cannot be loaded.
    """
    # Not cached, unlike the library: the variable may change while the program runs.
    if env.ops_disabled():
        return None
    with _lock:
        return _load_once()


def available() -> bool:
    """Returns whether the C++ ops can be used. Raises the errors of `load`."""
    return load() is not None


@functools.cache
def _load_once() -> ModuleType | None:
    if not LIBRARY.exists():
        return None
    # Before the load: a library for another TensorFlow may crash the process when it is loaded.
    check_build(BUILD_INFO, tf.__version__)
    try:
        return tf.load_op_library(str(LIBRARY))
    except (tf.errors.OpError, OSError) as error:
        raise LibraryError(f"{LIBRARY} cannot be loaded ({error}): reinstall tfps to build it anew.") from error


def check_build(build_info: Path, running: str) -> None:
    """Checks that the library was built against the TensorFlow that is about to load it.

    Args:
        build_info: the file that the build wrote beside the library.
        running: the version of this process's TensorFlow.

    Raises:
        LibraryError: the versions differ, or the file is missing or unreadable.
    """
    try:
        built = json.loads(build_info.read_text())["tensorflow"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LibraryError(f"{build_info} must tell which TensorFlow the C++ ops were built for: {error!r}.") from error
    if built != running:
        raise LibraryError(
            f"The C++ ops of tfps were built for TensorFlow {built}, but this is TensorFlow {running}: reinstall tfps "
            "with `pip install --no-build-isolation`, or set TFPS_DISABLE_OPS=1 to run without them."
        )
