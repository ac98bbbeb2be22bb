"""Windows that a model trains in one go: for models whose step is so small that a graph of it costs more than its work.

Any model may offer a method

    def train_window(self, batches, steps, window): ...

and is then asked for whole windows in GEO mode, instead of for steps by its `train_step`: `batches` has the structure
of a batch, with the tensors of all batches of the window one after the other; `steps`, an int64 scalar, says how many
they were; `window` is a `WholeWindow`. The method gets rows by `window.pull`, trains, hands what it moved them by to
`window.push`, counts `steps` in `optimizer.iterations`, and returns logs as a `train_step` does. It runs while a graph
is traced, and dense variables are the worker's copies, as in a step. `tfps.models.SkipGram` is such a model.

Memory: the window's unique rows and slots four times (as pulled, padded to train on, by how much they moved, and as the
message that says so), and the window's batches.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.once import Stamp
from tfps.embedding.window_rows import WindowRows, pull_window, push_window
from tfps.errors import UnsupportedError
from tfps.training.batches import Batches, next_unless
from tfps.training.drift import measured
from tfps.training.exchange import share
from tfps.training.window import WindowMode


class WholeWindow:
    """What `train_window` gets rows from and gives deltas to.

    Args:
        mode: how windows are trained.
        stamp: of the push.

    Attributes:
        drift: what it has moved, a tensor, once it is pushed.
    """

    def __init__(self, mode: WindowMode, stamp: Stamp | None = None) -> None:
        self._mode, self._stamp = mode, stamp
        self._pushed = False
        self.drift: Any = measured([])

    def pull(self, lookups: Sequence[tuple[Any, Any]]) -> WindowRows:
        """Rows and slots from the servers, each once.

        Args:
            lookups: (Keras variable or table, integer ids of any shape) each; all of one width.
        """
        pairs = [(getattr(variable, "_value", variable), ids) for variable, ids in lookups]
        return pull_window(pairs, [self._mode.slots.get(table.key, ()) for table, _ in pairs])

    def push(self, rows: WindowRows, deltas: Sequence[Any]) -> None:
        """Adds deltas on the servers, merged as the optimizer's mode says; to be called once.

        Args:
            rows: as pulled.
            deltas: one for each of `rows.matrices`.

        Raises:
            UnsupportedError: it was called before; a server would let the second push of a window pass.
        """
        if self._pushed:
            raise UnsupportedError("`push` of a window must be called once. Received: a second call.")
        self._pushed = True
        merged = [
            delta * rows.shared_by_table([self._mode.scales.get(table.key, 1.0) for table in group.tables])
            if any(self._mode.scales.get(table.key, 1.0) != 1.0 for table in group.tables)
            else delta
            for group, delta in zip(rows.groups, deltas, strict=True)
        ]
        others = None
        if any(table.key in self._mode.capped for table in rows.groups[0].tables):
            with tf.control_dependencies(deltas[:1]):
                now = rows.now()  # not before the window is trained: what others have pushed by then counts
            others = now - rows.matrices[0]
            merged[0] = deltas[0] * share(deltas[0], others, axis=1)
        self.drift = measured([(merged[0], others)])
        push_window(rows, merged, self._stamp)


def read_window(next_batch: Callable[[], Any], first: Any, max_steps: Any) -> tuple[Any, Any]:
    """Takes up to `max_steps` batches; returns how many, int64, and their tensors one after the other.

    Args:
        next_batch: gives the next batch as a `tf.experimental.Optional`, empty at the end of the input.
        first: the first one.
        max_steps: int64 scalar.
    """
    spec = first.element_spec

    def body(count: Any, batch: Any, arrays: Any) -> Any:
        arrays = Batches(spec, arrays).with_batch(tf.cast(count, tf.int32), batch.get_value()).arrays
        return count + 1, next_unless(count + 1 >= max_steps, next_batch, batch), arrays

    count, _, arrays = tf.while_loop(
        lambda count, batch, arrays: batch.has_value(),
        body,
        (tf.constant(0, tf.int64), first, Batches(spec).arrays),
        parallel_iterations=1,
    )
    return count, Batches(spec, arrays).joined()


def join_window(batches: Sequence[Any]) -> tuple[Any, Any]:
    """The same of batches that were fed."""
    joined = Batches(batches[0])
    for number, batch in enumerate(batches):
        joined = joined.with_batch(number, batch)
    return tf.constant(len(batches), tf.int64), joined.joined()


Train = Callable[[Any, Any, WholeWindow], Mapping[str, Any]]
