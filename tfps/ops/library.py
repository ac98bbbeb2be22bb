"""Finds and loads the library of C++ ops, or says why it cannot."""

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

# Guards the first load: TensorFlow registers ops once, and two threads may ask at the same time.
_lock = threading.Lock()


def load() -> ModuleType | None:
    """Loads the library once per process and returns the module of its op functions.

    Every process that runs a graph with these ops must call this, servers and workers too: a graph names its ops, and a
    process that has not loaded them answers "Op type not registered".

    Returns:
        The module; None if the library was never built, or `TFPS_DISABLE_OPS=1` asks for TensorFlow's own ops.

    Raises:
        LibraryError: the library was built against another TensorFlow than this one, or cannot be loaded.
    """
    if env.ops_disabled():
        return None
    with _lock:
        return _load_once()


def available() -> bool:
    """Returns whether the C++ ops can be used; see `load` for the errors."""
    return load() is not None


@functools.cache
def _load_once() -> ModuleType | None:
    if not LIBRARY.exists():
        return None
    check_build(BUILD_INFO, tf.__version__)
    try:
        return tf.load_op_library(str(LIBRARY))
    except (tf.errors.OpError, OSError) as error:
        raise LibraryError(f"{LIBRARY} cannot be loaded ({error}): reinstall tfps to build it anew.") from error


def check_build(build_info: Path, running: str) -> None:
    """Checks that the library was built against the TensorFlow that is about to load it.

    Args:
        build_info: file that the build wrote beside the library.
        running: version of this process's TensorFlow.

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
