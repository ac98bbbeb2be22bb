"""Whether this thread describes a model, whose variables have shapes and no values: for a plan, say."""

import contextlib
import threading
from collections.abc import Iterator


class _State(threading.local):
    active = False


_STATE = _State()


@contextlib.contextmanager
def describing() -> Iterator[None]:
    """Says, within, that models are described."""
    before, _STATE.active = _STATE.active, True
    try:
        yield
    finally:
        _STATE.active = before


def is_describing() -> bool:
    """Whether a model is described."""
    return _STATE.active
