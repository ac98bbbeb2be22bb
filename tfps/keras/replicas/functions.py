"""What `fit` and `evaluate` call for each step under a strategy with replicas.

Keras calls once a step, and TensorFlow would wait for Python between two steps. Where no callback needs what stands
between two batches, one call therefore runs the next steps too, in one graph, and the following calls have only to
count. The callbacks then see logs that are up to `_CALL_S` seconds newer than their batch. The graph itself looks at
the clock after each step, because an input that was fast may stall, and Ctrl-C has to wait for the end of the call.

Threading: the main thread.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tfps.inputs.chief_dataset import as_tensor
from tfps.keras._compat import convert_to_np_if_not_ragged, keras, tree
from tfps.keras.batch_callbacks import Lookahead
from tfps.keras.replicas.steps import run_on_replica
from tfps.types import Nest

_PREDICT_ON_BATCH = "_tfps_predict_on_batch"
"""The attribute of a model that keeps its function for `predict_on_batch`, and the one of Keras that it belongs to."""
_PROGRESS = "_tfps_progress"
"""The attribute of an iterator that keeps its `Progress`."""
_NO_LIMIT = 1 << 30
_CALL_S = 0.1
"""How long a call goes on to begin steps, in seconds. Progress bars are drawn at most every 0.05 s."""


@dataclasses.dataclass
class Progress:
    """How far `fit` or `evaluate` has come in one epoch with an iterator.

    Args:
        left: the number of steps that the epoch still takes; None if it goes on to the end of an unknown number.
        ahead: the number of steps that have run before Keras has asked for them.
    """

    left: int | None
    ahead: int = 0


def set_steps_left(iterator: Any, begins: bool, left: int | None) -> None:
    """Tells how many steps an epoch still takes from an iterator, before each call.

    Args:
        iterator: the iterator.
        begins: whether the epoch begins; what the one before has run ahead is forgotten, as it may have ended early.
        left: the number of steps, with the next one; None if it is not known.
    """
    progress = getattr(iterator, _PROGRESS, None)
    if begins or progress is None:
        setattr(iterator, _PROGRESS, Progress(left))
    else:
        progress.left = left


class ReplicatedFunction:
    """Replaces `model.train_function` or `model.test_function`: takes an iterator and returns the logs.

    Args:
        model: a model of a strategy of `tfps.replicas`.
        run: its `train_step` or `test_step`.
        lookahead: the attribute of the model that has the `Lookahead` of the `fit` or `evaluate` that runs.
    """

    def __init__(self, model: keras.Model, run: Callable[[Nest], Nest], lookahead: str) -> None:
        self._model = model
        self._lookahead = lookahead
        self._graphs = _Graphs(model, run)
        self._logs: Nest = None

    def __call__(self, iterator: Any) -> Nest:
        """Takes `steps_per_execution` steps, and fewer where the input ends.

        Raises:
            StopIteration: the input has no more.
        """
        wanted = int(self._model.steps_per_execution)
        if not isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            return self._run_given(iterator, wanted)
        # Without one, the caller is no loop of Keras.
        progress = getattr(iterator, _PROGRESS, None) or Progress(None)
        try:
            while progress.ahead < wanted:
                self._run(iterator, progress, wanted)
        except (StopIteration, tf.errors.OutOfRangeError):
            # The steps before the end count, and the next call ends the epoch.
            if not progress.ahead:
                raise StopIteration from None
        progress.ahead = max(0, progress.ahead - wanted)
        return self._logs

    @property
    def is_outdated(self) -> bool:
        """Whether `run_eagerly` of the model has changed since the function was made."""
        return self._graphs.is_eager != bool(self._model.run_eagerly)

    def _run(self, iterator: Any, progress: Progress, wanted: int) -> None:
        missing, most = wanted - progress.ahead, self._most()
        if most <= wanted:
            self._logs = self._graphs.take_step(iterator)
            progress.ahead += 1
            return
        limit = most if progress.left is None else min(most, progress.left)
        done, self._logs = self._graphs.take_steps(iterator, max(missing, limit - progress.ahead))
        progress.ahead += done

    def _most(self) -> int:
        """Returns the number of steps that may begin before callbacks have seen the first one, apart from the input."""
        lookahead: Lookahead | None = getattr(self._model, self._lookahead, None)
        if lookahead is None or lookahead.reads_logs or not self._graphs.has_loop:
            return 1
        most = lookahead.steps(workers=1)
        return _NO_LIMIT if most is None else most

    def _run_given(self, batches: Any, wanted: int) -> Nest:
        """Runs the batches of `train_on_batch` and `test_on_batch`."""
        logs = None
        for _ in range(wanted):
            try:
                data = next(batches)
            except StopIteration:
                if logs is None:
                    raise
                break
            logs = self._graphs.on_data(_divide(self._model._distribute_strategy, _without_optionals(data)))
        return logs


class _Graphs:
    """The graphs of a step and of several steps.

    Args:
        model: a model of a strategy of `tfps.replicas`.
        run: its `train_step` or `test_step`.

    Attributes:
        is_eager: whether steps run without a graph.
        on_data: runs a step on a batch that is divided between the replicas; returns the logs.
        take_step: the same on the next batch of an iterator.
    """

    def __init__(self, model: keras.Model, run: Callable[[Nest], Nest]) -> None:
        strategy = model._distribute_strategy
        self.is_eager = bool(model.run_eagerly)
        # Set while tracing: the loop carries the logs of a step, so they have to be tensors.
        self._has_tensors = True
        self._in_process = not getattr(strategy.extended, "_in_multi_worker_mode", lambda: False)()

        @tf.autograph.experimental.do_not_convert
        def one_step(data: Nest) -> Nest:
            outputs = strategy.run(lambda part: run_on_replica(model, run, part), args=(data,))
            # All replicas have the same logs.
            return tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], outputs)

        @tf.autograph.experimental.do_not_convert
        def take_step(iterator: Any) -> Nest:
            return self.on_data(_without_optionals(iterator.get_next()))

        @tf.autograph.experimental.do_not_convert
        def take_steps(iterator: Any, steps: tf.Tensor, seconds: tf.Tensor) -> tuple[tf.Tensor, Nest]:
            return self._loop(iterator, steps, seconds)

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return function if self.is_eager else tf.function(function, reduce_retracing=True)

        self.on_data, self.take_step, self._take_steps = map(compiled, (one_step, take_step, take_steps))

    @property
    def has_loop(self) -> bool:
        """Whether several steps can run in one graph."""
        return self._has_tensors and self._in_process and not self.is_eager

    def take_steps(self, iterator: Any, steps: int) -> tuple[int, Nest]:
        """Runs steps on the next batches, for `_CALL_S`; returns how many there were, and the logs of the last one.

        Raises:
            tf.errors.OutOfRangeError: there was no batch.
        """
        done, logs = self._take_steps(iterator, tf.constant(steps), tf.constant(_CALL_S, tf.float64))
        return int(done), logs

    def _loop(self, iterator: Any, steps: tf.Tensor, seconds: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        end = tf.timestamp() + seconds
        with tf.control_dependencies([end]):
            first = self.take_step(iterator)
        values = tf.nest.flatten(first, expand_composites=True)
        self._has_tensors = all(isinstance(value, tf.Tensor) for value in values)
        if not self._has_tensors:
            return tf.constant(1), first

        def step(data: Nest) -> list[tf.Tensor]:
            return tf.nest.flatten(self.on_data(_without_optionals(data)), expand_composites=True)

        def goes_on(more: tf.Tensor, logs: Iterable[tf.Tensor]) -> tf.Tensor:
            with tf.control_dependencies(logs):
                return tf.logical_and(more, tf.timestamp() < end)

        def body(done: tf.Tensor, more: tf.Tensor, *logs: tf.Tensor) -> tuple[tf.Tensor, ...]:
            batch = iterator.get_next_as_optional()
            more = batch.has_value()
            now = tf.cond(more, lambda: step(batch.get_value()), lambda: list(logs))
            return done + tf.cast(more, tf.int32), goes_on(more, now), *now

        # The last batch may be smaller, and with it what a step returns for each example.
        shapes = [tf.TensorShape(None if value.shape.rank is None else [None] * value.shape.rank) for value in values]
        done, _, *last = tf.while_loop(
            lambda done, more, *logs: tf.logical_and(more, done < steps),
            body,
            (tf.constant(1), goes_on(tf.constant(True), values), *values),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), *shapes),
        )
        return done, tf.nest.pack_sequence_as(first, last, expand_composites=True)


def _divide(strategy: tf.distribute.Strategy, data: Nest) -> Nest:
    """Returns a batch of `train_on_batch` or `test_on_batch` with a part for each replica of this process."""
    replicas = len(strategy.extended.worker_devices)
    data = tree.map_structure(lambda one: None if one is None else as_tensor(one), data)
    if replicas == 1:
        return data

    def part(context: Any) -> Nest:
        number = context.replica_id_in_sync_group % replicas

        def cut(value: tf.Tensor | None) -> tf.Tensor | None:
            if value is None or value.shape.rank == 0:
                return value
            size = value.shape[0]
            return value[number * size // replicas : (number + 1) * size // replicas]

        return tree.map_structure(cut, data)

    return strategy.experimental_distribute_values_from_function(part)


def predict_on_batch(stock: Callable[..., Nest], model: keras.Model, x: Nest) -> Nest:
    """Replaces `predict_on_batch`: one replica predicts, where Keras would return what each predicts for the batch."""
    run: Callable[..., Nest] = model.predict_step
    # `run_eagerly` may change without `compile`.
    if not model.run_eagerly:
        # Keras drops its own function when the model changes, for example by `compile` or `quantize`.
        model.make_predict_function()
        of, run = vars(model).get(_PREDICT_ON_BATCH, (None, None))
        if of is not model.predict_function:
            run = tf.function(model.predict_step, autograph=False)
            # Keras tracks what is assigned to a model in the plain way.
            object.__setattr__(model, _PREDICT_ON_BATCH, (model.predict_function, run))
    outputs = run((tree.map_structure(as_tensor, x),))
    return tree.map_structure(convert_to_np_if_not_ragged, outputs)


def _without_optionals(data: Nest) -> Nest:
    """Returns a batch with None where a dataset of structures with None has an empty optional."""
    return tree.map_structure(lambda one: None if isinstance(one, tf.experimental.Optional) else one, data)
