"""Whether the lookups under trace are of a step that will update the rows.

Tables that evict rows leave such rows alone, because a row that goes between the lookup and the update would lose what
it has learned. Threading: each thread has its own state.
"""

import contextlib
import threading
from collections.abc import Iterator


class _State(threading.local):
    training = False


_STATE = _State()


@contextlib.contextmanager
def training(will_update: bool) -> Iterator[None]:
    """Says, within, whether lookups are followed by updates of their rows."""
    before, _STATE.training = _STATE.training, will_update
    try:
        yield
    finally:
        _STATE.training = before


def is_training() -> bool:
    """Whether lookups are followed by updates of their rows."""
    return _STATE.training
