"""Finds and loads the library of C++ ops, or raises an error that says why it cannot.

A library works with one minor version of TensorFlow, named by its file: `_tfps_ops_2_21.so`. An installation that
compiled its ops has one library. A wheel may have several.
"""

import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import tensorflow as tf

from tfps import env
from tfps.errors import LibraryError

FOLDER = Path(__file__).parent
_PREFIX = "_tfps_ops_"

# Guards the first load: TensorFlow registers an op only once, and two threads may call `load` at the same time.
_lock = threading.Lock()


def load() -> ModuleType | None:
    """Loads the library once per process and returns the module of its op functions.

    Every process that runs a graph with these ops must call it, servers and workers included. A graph refers to its ops
    by name, and a process that has not loaded them fails with "Op type not registered".

    Returns:
        The module, or None if no library was ever built or `TFPS_DISABLE_OPS=1` is set.

    Raises:
        LibraryError: no library was built for this version of TensorFlow, or it cannot be loaded.
    """
    # Not cached, unlike the library: the variable may change while the program runs.
    if env.ops_disabled():
        return None
    with _lock:
        return _load_once()


def available() -> bool:
    """Returns whether the C++ ops can be used. Raises the errors of `load`."""
    return load() is not None


def libraries(folder: Path) -> dict[str, Path]:
    """Returns the libraries of a folder by their version of TensorFlow: `{"2.21": Path("_tfps_ops_2_21.so")}`."""
    paths = sorted(folder.glob(f"{_PREFIX}*.so"))
    return {path.stem.removeprefix(_PREFIX).replace("_", "."): path for path in paths}


def choose(built: Mapping[str, Path], running: str) -> Path:
    """Returns the library for a version of TensorFlow.

    Args:
        built: the libraries by their minor version, as `libraries` returns them.
        running: the version of this process's TensorFlow, such as "2.21.0".

    Raises:
        LibraryError: there is none. One for another version may crash the process when it is loaded.
    """
    minor = ".".join(running.split(".")[:2])
    if minor not in built:
        raise LibraryError(
            f"The C++ ops of tfps were built for TensorFlow {', '.join(built)}, but this is TensorFlow {running}: "
            "reinstall tfps from its sources with `pip install --no-build-isolation`, or set TFPS_DISABLE_OPS=1 to run "
            "without them."
        )
    return built[minor]


def path() -> Path | None:
    """Returns the library for this process's TensorFlow, or None if none was ever built. Raises as `choose`."""
    built = libraries(FOLDER)
    return choose(built, tf.__version__) if built else None


@functools.cache
def _load_once() -> ModuleType | None:
    library = path()
    if library is None:
        return None
    try:
        return tf.load_op_library(str(library))
    except (tf.errors.OpError, OSError) as error:
        raise LibraryError(f"{library} cannot be loaded ({error}): reinstall tfps to build it anew.") from error
