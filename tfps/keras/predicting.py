"""`predict`: sends batches to the workers and returns the results in the order of the input."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import keras
import tensorflow as tf

from tfps import step
from tfps.cluster import devices
from tfps.embedding.whole import WHOLE_SUFFIX, WholeCopies
from tfps.inputs.chief_dataset import as_tensor, move_to_this_context
from tfps.keras import seeds
from tfps.keras._compat import (
    TFEpochIterator,
    convert_to_np_if_not_ragged,
    enumerate_steps,
    global_attributes,
    potentially_ragged_concat,
    thread_state,
    tree,
)
from tfps.keras.functions import forget_function
from tfps.keras.model_steps import ModelSteps, without_optionals
from tfps.runtime.ordered_results import run_in_order
from tfps.strategy.variables import DenseVariable
from tfps.training.device_steps import HOST, DeviceCopies, run_on_devices
from tfps.training.exchange import Exchange
from tfps.training.hoisting import Recording
from tfps.training.step_lookups import DeviceLookups, DirectLookups
from tfps.training.traced_closures import retrace
from tfps.types import Nest

_NUMBERS = itertools.count()


def predict(
    stock: Callable[..., Nest],
    model: keras.Model,
    x: Nest,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    steps: int | None = None,
    callbacks: keras.callbacks.CallbackList | Sequence[keras.callbacks.Callback] | None = None,
) -> Nest:
    """Replaces Keras's `predict` and runs it on the workers.

    Args:
        stock: the method of Keras. It is not used, because it would run the model on the chief.
        model: a Keras model of our strategy.
        x: see `keras.Model.predict`.
        batch_size: see `keras.Model.predict`.
        verbose: see `keras.Model.predict`.
        steps: see `keras.Model.predict`.
        callbacks: see `keras.Model.predict`.

    Returns:
        The outputs of all batches, concatenated: numpy arrays, or a `tf.RaggedTensor` where batches differ in length.

    Raises:
        ValueError: the input has no batch.
    """
    epoch_iterator = TFEpochIterator(
        x=x,
        batch_size=batch_size,
        steps_per_epoch=steps,
        shuffle=False,
        distribute_strategy=model.distribute_strategy,
        steps_per_execution=model.steps_per_execution,
    )
    # As in Keras: a CallbackList belongs to an outer loop, which has already set it up.
    if isinstance(callbacks, keras.callbacks.CallbackList):
        hooks = callbacks
    else:
        hooks = keras.callbacks.CallbackList(
            callbacks,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=1,
            steps=epoch_iterator.num_batches,
            model=model,
        )
    # The chief reads the input itself: results have to come back in its order, and each batch goes out with its call.
    most = None
    if steps is not None:
        # Keras takes whole executions, so it may take more batches than `steps`.
        most = -(-steps // model.steps_per_execution) * model.steps_per_execution
    batches = itertools.islice(move_to_this_context(epoch_iterator._distributed_dataset.dataset), most)
    function = model.make_predict_function()
    outputs: list[Nest] = []
    model.stop_predicting = False
    hooks.on_predict_begin()
    with seeds.twins_of(model.distribute_strategy).loop(), contextlib.closing(function.results(batches)) as results:
        # Keras's own iterator counts the steps and warns where the input ends early. It iterates over the results.
        epoch_iterator._distributed_dataset = results
        with epoch_iterator.catch_stop_iteration():
            # Keras before 3.10 gives the first step of an execution only, and later versions the last one as well.
            for *numbers, iterator in enumerate_steps(epoch_iterator):
                hooks.on_predict_batch_begin(numbers[0])
                outputs.append(_concatenate(_take(iterator, model.steps_per_execution)))
                # Keras gives callbacks numpy arrays where it can.
                shown = tree.map_structure(convert_to_np_if_not_ragged, outputs[-1])
                hooks.on_predict_batch_end(numbers[-1], {"outputs": shown})
                if model.stop_predicting:
                    break
    hooks.on_predict_end()
    if not outputs:
        raise ValueError("`x` must have at least one batch. Received: an input without batches.")
    return tree.map_structure(convert_to_np_if_not_ragged, _concatenate(outputs))


def predict_on_batch(stock: Callable[..., Nest], model: keras.Model, x: Nest) -> Nest:
    """Replaces Keras's `predict_on_batch` and runs it on one worker."""
    with seeds.twins_of(model.distribute_strategy).loop():
        return tree.map_structure(convert_to_np_if_not_ragged, model.make_predict_function()([(x,)]))


class PredictFunction:
    """Replaces `model.predict_function`: runs `model.predict_step` on the workers.

    A step that assigns variables, such as the state of a random generator or of a recurrent layer, builds on the step
    before it. All steps then run on one worker, one after the other, as in one process.

    Args:
        model: a Keras model of our strategy, which owns this object.

    Threading: the main thread traces the first kind of batch; threads of the pool may trace others.
    """

    def __init__(self, model: keras.Model) -> None:
        self._steps = ModelSteps(model, model.predict_step)
        self._function = tf.function(self._trace, autograph=False, reduce_retracing=True)
        self._is_traced = self._assigns = False
        self._variables = self._steps.strategy.remote_variables.make_owned(self)
        self._whole = WholeCopies(f"prediction_{next(_NUMBERS)}", "predict")
        self._steps.strategy.connection.add_holder(self)

    def forget(self, device: str) -> None:
        """Removes this function from its model if a server was started again: its graph names lost variables."""
        forget_function(self, self._steps.model, "predict_function", device)

    def __call__(self, batches: Iterable[Nest]) -> Nest:
        """Runs the steps over some batches, such as `[(x,)]`, and returns their outputs, concatenated."""
        return _concatenate([*self.results(batches)])

    def results(self, batches: Iterable[Nest]) -> Generator[Nest, None, None]:
        """Yields the outputs of each batch, in order, as tensors on the chief."""
        # A generator, so that a batch is read only when a worker has room for it.
        tensors = (tree.map_structure(as_tensor, without_optionals(batch)) for batch in batches)
        first = list(itertools.islice(tensors, 1))
        if not first:
            return
        # Traced here, because the first trace says whether the steps build on one another.
        if not self._is_traced:
            retrace(functools.partial(self._function.get_concrete_function, *first))
        calls = (functools.partial(self._run, batch) for batch in itertools.chain(first, tensors))
        # The copies of whole tables of an earlier call do not have the updates since.
        self._variables.destroy_ending_in(WHOLE_SUFFIX)
        found = run_in_order(self._steps.strategy, "predictions for a batch", calls, in_turn=self._assigns)
        try:
            with contextlib.closing(found) as outputs:
                for output in outputs:
                    with tf.device(devices.CHIEF):
                        tensors_here = tree.map_structure(as_tensor, output)
                    yield tensors_here
        finally:
            self._variables.destroy_ending_in(WHOLE_SUFFIX)

    def _outputs(self, inputs: Nest) -> Nest:
        with self._steps.in_scope():
            return self._steps.outputs(inputs)

    def _run(self, batch: Nest) -> Nest:
        return retrace(lambda: self._function(batch))

    def _trace(self, batch: Nest) -> Nest:
        variables = self._steps.pulled()
        exchange = Exchange(variables)
        exchange.pull()

        devices = self._steps.strategy.step_devices
        copies = DeviceCopies(devices, exchange.copies, variables) if devices else None

        def run(lookups: DirectLookups, inputs: Nest) -> Nest:
            home = step.Step(lookups, exchange.copies)
            if copies is not None and isinstance(lookups, DeviceLookups):
                return _run_on_devices(home, lookups, copies, inputs, self._outputs)
            with step.tracing(home):
                return self._outputs(inputs)

        # The first pass records the lookups of the model. The second one answers all of them with one request.
        recording = Recording(run, batch, self._whole.read, len(devices))
        outputs = run(recording.lookups(batch), batch)
        written = recording.written(exchange.copies)
        for variable in variables:
            if variable.key in written:
                self._assigns = True
                _write_back(variable, exchange.copies[variable.key])
        self._is_traced = True
        # The graph names copies on the workers, which are destroyed together with this object.
        self._variables.add_graph(tf.compat.v1.get_default_graph())
        return outputs


def _run_on_devices(
    home: step.Step, lookups: DeviceLookups, copies: DeviceCopies, batch: Nest, trace: Callable[[Nest], Nest]
) -> Nest:
    """Traces a step on all devices of a worker; returns the outputs of the whole batch."""
    of_devices, shares = run_on_devices(
        home, lookups.of_devices, copies, batch, trace, lambda: thread_state(global_attributes())
    )
    if len(of_devices) == 1:
        return of_devices[0]

    def join(*parts: Nest) -> Nest:
        # A device without examples of its own has computed the last one again.
        own = [_take_rows(part, number) for part, number in zip(parts, shares.examples, strict=True)]
        return tf.concat(own, 0)

    with tf.device(HOST):
        return tree.map_structure(join, *of_devices)


def _take_rows(output: Nest, number: tf.Tensor) -> Nest:
    """Returns the rows of an output of one device that count; it must have a row for each example."""
    output = output if isinstance(output, tf.RaggedTensor) else tf.convert_to_tensor(output)
    number = tf.cast(number, tf.int32)
    rows = output.nrows() if isinstance(output, tf.RaggedTensor) else tf.shape(output)[:1]
    fits = tf.debugging.Assert(
        tf.reduce_all(tf.cast(rows, tf.int32) == tf.maximum(number, 1)),
        [
            "an output of a model must have a row for each example where devices share a batch. Valid: "
            "devices_per_worker=1. Received rows:",
            rows,
        ],
    )
    with tf.control_dependencies([fits]):
        return output[:number]


def _write_back(variable: DenseVariable, copy: tf.Tensor) -> None:
    """Assigns the worker's copy of a variable to the variable itself. Nobody else changes it meanwhile."""
    value = tf.raw_ops.ReadVariableOp(resource=copy, dtype=variable.dtype)
    with tf.device(variable.home_handle.device):
        tf.raw_ops.AssignVariableOp(resource=variable.home_handle, value=value)


def _take(results: Iterator[Nest], count: int) -> list[Nest]:
    """Takes up to `count` results.

    Raises:
        StopIteration: there are no more.
    """
    taken = list(itertools.islice(results, count))
    if not taken:
        raise StopIteration
    return taken


def _concatenate(outputs: Sequence[Nest]) -> Nest:
    """Concatenates the outputs of several steps, as Keras does."""
    with tf.device(devices.CHIEF):
        return tree.map_structure(lambda *parts: potentially_ragged_concat(list(parts)), *outputs)
