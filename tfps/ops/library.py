"""Finds and loads the C++ ops, and says why where that cannot be."""

import functools
import json
import threading
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfps import env
from tfps.errors import LibraryError

LIBRARY = Path(__file__).with_name("_tfps_ops.so")
BUILD_INFO = Path(__file__).with_name("_build_info.json")

_lock = threading.Lock()


def load() -> Any | None:
    """The module of generated op functions, loaded once per process.

    Every process that runs a graph with these ops must have called this, servers and workers too: a graph names its
    ops, and a process that has not loaded them answers "Op type not registered".

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
    """Whether the C++ ops are there to be used; see `load` for what this raises."""
    return load() is not None


@functools.cache
def _load_once() -> Any | None:
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
        build_info: the file that the build wrote beside the library.
        running: version of the TensorFlow of this process.

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
