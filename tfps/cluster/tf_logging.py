"""Ends what TensorFlow logs about a task that is gone, once an error or a warning of ours has named it.

After a death TensorFlow's C++ logs four lines to standard error for every function that the chief traces or drops
("Failed to register function remotely ..."), until the program ends: hundreds of lines that say nothing new. Only its
logger itself can be made to leave them out; TensorFlow has no public way to ask it, so this calls the function of
Abseil that sets the level. Where that cannot be found, the lines stay, and nothing else changes.

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
    """Has TensorFlow's C++ log fatal errors alone from now on. Does nothing in a process without TensorFlow.

    What fails still raises its Python error; what this leaves out are the repeated lines about it.
    """
    if "tensorflow" in sys.modules:
        _set_min_log_level(_FATAL)


@functools.lru_cache(maxsize=1)
def _set_min_log_level(level: int) -> bool:
    """Calls `absl::SetMinLogLevel`; returns whether there is one."""
    import tensorflow as tf

    try:
        options = Path(tf.sysconfig.get_include(), "absl", "base", "options.h").read_text()
        namespace = _NAMESPACE.search(options)
        if namespace is None:
            return False
        # The C++ name in its binary form: each part with its length, "12lts_20250814".
        name = namespace[1]
        symbol = f"_ZN4absl{len(name)}{name}14SetMinLogLevelENS0_18LogSeverityAtLeastE"
        library = next(Path(tf.sysconfig.get_lib()).glob("libtensorflow_framework.*"))
        ctypes.CDLL(str(library))[symbol](ctypes.c_int(level))
        return True
    except (OSError, AttributeError, StopIteration):  # another build of TensorFlow: no header, library or function
        return False
