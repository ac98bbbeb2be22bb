"""Python functions of tfps that a graph calls on the task that runs it: a worker, or the chief.

Workers run no code of users, but each is a process of tfps, so it can run functions that tfps itself has: to fetch a
file, to read messages from a broker. TensorFlow's `PyFunc` finds a Python function by a token in its own process. All
tasks register one function under one token. It imports the function that is wanted when a graph first calls it, so
servers start without the libraries that it needs.

Threading: TensorFlow calls from threads of its own, several at once.
"""

import functools
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfps.errors import SourceError, TfpsError

_TOKEN = "tfps_worker_function"
_NAMES = "WORKER_FUNCTIONS"
"""The dictionary of a module that has its functions for graphs, by name."""

# Both ends of the message, in whatever TensorFlow puts around it.
_BEGIN, _END = "tfps source error: ", " :end of tfps source error"
_FOUND = re.compile(f"{_BEGIN}(?P<message>.*?){_END}", re.DOTALL)


def register() -> None:
    """Lets graphs call functions in this process. TensorFlow is imported."""
    from tensorflow.python.ops import script_ops  # the registry of `PyFunc` is not public

    # The registry keeps weak references; this module keeps the function.
    script_ops._py_funcs._funcs[_TOKEN] = _run


def call(module: str, name: str, inputs: Sequence[Any], dtypes: Sequence[Any]) -> list[Any]:
    """Adds a call to a graph, or calls at once where TensorFlow runs eagerly.

    Args:
        module: the full name of the module, such as "tfps.streaming.fetching".
        name: the name of the function in `WORKER_FUNCTIONS` of the module.
        inputs: tensors; the function gets numpy arrays and, for a string, bytes.
        dtypes: the types of the tensors that it returns.

    Returns:
        The tensors, of unknown shape.
    """
    import tensorflow as tf

    # The chief may run the graph itself.
    register()
    target = tf.constant(f"{module}:{name}")
    results: list[Any] = tf.raw_ops.PyFunc(input=[target, *inputs], token=_TOKEN, Tout=list(dtypes))
    return results


def is_call(op: str, token: bytes) -> bool:
    """Whether an operation of a graph is a call by `call`, which every task can run.

    Args:
        op: the type of the operation.
        token: its attribute `token`; empty if it has none.
    """
    return op == "PyFunc" and token == _TOKEN.encode()


def find_error(text: str) -> SourceError | None:
    """Returns the error of a function here, from the text of TensorFlow's error."""
    found = _FOUND.search(text)
    return None if found is None else SourceError(found["message"])


def _run(target: bytes, *inputs: Any) -> Sequence[np.ndarray[Any, Any]]:
    """Runs the function that a graph calls."""
    try:
        return _find(target.decode())(*inputs)
    except TfpsError as error:
        # TensorFlow makes this an InvalidArgumentError, a kind that no failure of a connection has.
        raise ValueError(f"{_BEGIN}{error}{_END}") from error


@functools.cache
def _find(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    # A name comes in a graph. Nothing but tfps itself is imported for one.
    if not module.startswith("tfps."):
        raise ValueError(f"a graph may call functions of tfps alone. Received: {module!r}.")
    functions: dict[str, Callable[..., Any]] = getattr(importlib.import_module(module), _NAMES)
    return functions[name]
