"""Silences TensorFlow's log about a dead task, once an error or a warning of ours has reported it.

After a death TensorFlow's C++ code logs four lines to standard error for every function that the chief traces or drops
("Failed to register function remotely ..."), until the program ends: hundreds of lines without news. TensorFlow has no
public way to set the level of its logger at run time, so this module calls the function of Abseil that does. If the
function cannot be found, the lines stay and nothing else changes. TensorFlow before 2.21 has a logger of its own beside
Abseil's, whose lines stay too.

Threading: any thread. Cost: a few milliseconds, at the first death.
"""

import ctypes
import functools
import re
import sys
from pathlib import Path

_FATAL = 3  # absl::LogSeverityAtLeast::kFatal
_NAMESPACE = re.compile(r"#define ABSL_OPTION_INLINE_NAMESPACE_NAME (\w+)")


def quieten() -> None:
    """Makes TensorFlow's C++ log only fatal errors from now on. Does nothing in a process without TensorFlow.

    Operations that fail still raise their Python errors; only the repeated log lines disappear.
    """
    if "tensorflow" in sys.modules:
        _set_min_log_level(_FATAL)


@functools.lru_cache(maxsize=1)
def _set_min_log_level(level: int) -> bool:
    """Calls `absl::SetMinLogLevel`; returns whether the function was found."""
    import tensorflow as tf

    try:
        options = Path(tf.sysconfig.get_include(), "absl", "base", "options.h").read_text()
        namespace = _NAMESPACE.search(options)
        if namespace is None:
            return False
        # The mangled C++ name: each part follows its length, as in "12lts_20250814".
        name = namespace[1]
        symbol = f"_ZN4absl{len(name)}{name}14SetMinLogLevelENS0_18LogSeverityAtLeastE"
        library = next(Path(tf.sysconfig.get_lib()).glob("libtensorflow_framework.*"))
        ctypes.CDLL(str(library))[symbol](ctypes.c_int(level))
        return True
    # Another build of TensorFlow may lack the header, the library or the function.
    except (OSError, AttributeError, StopIteration):
        return False
