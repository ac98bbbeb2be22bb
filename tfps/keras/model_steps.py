"""The steps of a Keras model for closures: its `train_step` or `test_step`, and the variables that they use."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.keras import moving_averages, plain_variables
from tfps.keras._compat import global_attributes, metrics_of, thread_state, tree
from tfps.keras.optimizers import optimizers_of
from tfps.keras.returned_logs import ReturnedLogs
from tfps.keras.summaries import State, forget_name_scopes, number_summaries, summary_scope
from tfps.keras.variables import carries_state, stored_values
from tfps.placement.advice import default_exchange_every
from tfps.placement.model import Plan
from tfps.placement.spec import VariableSpec
from tfps.runtime.losses import WorkerLostError
from tfps.strategy.example_buffer import ExampleBuffer
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import DenseVariable, SmallTable, SumVariable
from tfps.training.closure import Program, UnpulledError
from tfps.training.exchange import begin_carrying
from tfps.training.hoisting import Recording
from tfps.training.step_lookups import DirectLookups
from tfps.types import Nest, VariableKey

_COPIED = (DenseVariable, SumVariable)
"""The variables of which a step uses copies. What workers do to their copies is merged later."""

RECURRENT = 8
"""The weight of a step that other workers have not seen in a model with recurrent layers, such as an LSTM."""


class ModelSteps:
    """The parts of a Keras model that closures and modes need.

    Args:
        model: a Keras model of our strategy. Its train or test function owns this object, so the reference is weak.
        step: `model.train_step`, `model.test_step` or `model.predict_step`.

    Attributes:
        model: a weak proxy of the model.
        strategy: the strategy whose workers run the steps.
        summary_state: the default writer of summaries in the thread of the training loop.
        uses_numbers: whether a step uses its number, for summaries or a dump; False before the first trace.
        returned: the logs that a step returns, as it was traced last; None before the first trace.

    Threading: steps are traced in the main thread; steps over fed batches are traced in the threads of the pool.
    """

    def __init__(self, model: keras.Model, step: Callable[[Nest], Nest]) -> None:
        self.model: keras.Model = weakref.proxy(model)
        self.strategy: ParameterServerStrategy = model.distribute_strategy
        self.returned: ReturnedLogs | None = None
        self.uses_numbers = False
        self.summary_state: State = {}
        self._step = step
        # Variables that steps use and the model does not know, found when a step is traced: generators, the state of
        # recurrent layers, and what belongs to layers, optimizers and metrics that are no attributes of the model.
        self._unknown: dict[VariableKey, DenseVariable | SumVariable] = {}
        # None until the model is built, when its metrics are known.
        self._buffers: dict[VariableKey, ExampleBuffer] | None = None
        # None until the model is built, when its layers are known.
        self._carried: list[DenseVariable] | None = None

    def closure_steps(self) -> int:
        """Returns the number of steps in a closure, as set on the model or else on the strategy."""
        # 1 is the default of `steps_per_execution`, and means that the user has not chosen.
        chosen = int(self.model.steps_per_execution)
        return chosen if chosen > 1 else self.strategy.dense_exchange_every

    def exchange_steps(self) -> int:
        """Returns the most steps of a closure that trains asynchronously: fewer with a momentum, unless they are set.

        The default bounds the steps that servers have not seen: 32 steps of all workers. It is divided by the weight of
        such a step: 3 steps with a momentum of 0.9, 4 for a recurrent model.
        """
        steps, workers = self.closure_steps(), self.strategy.num_workers
        is_default = int(self.model.steps_per_execution) == 1 and steps == default_exchange_every(workers)
        return max(1, int(steps / self.weight_of_unseen())) if is_default and workers > 1 else steps

    def trained_steps(self) -> int:
        """Returns the number of steps that the model has been trained for, as its optimizers count them."""
        # A custom `train_step` may leave the compiled optimizer alone, or be compiled with none.
        return max((int(optimizer.iterations) for optimizer in optimizers_of(self.model)), default=0)

    def trainable(self) -> frozenset[int]:
        """Returns the identities of the variables that a step trains, if it is traced now."""
        return frozenset(map(id, self.model.trainable_variables))

    def weight_of_unseen(self) -> float:
        """Returns the weight of a step that other workers have not seen: 1 in a plain model, at most 100.

        A momentum moves the weights for 1 / (1 - momentum) steps. Adam and its relatives divide by the size of their
        gradients, so their averages do not carry steps further. A recurrent layer applies its weights many times.
        """
        optimizers = optimizers_of(self.model)
        # `mixed_float16` wraps the optimizer in one that scales the loss.
        optimizers += [optimizer.inner_optimizer for optimizer in optimizers if hasattr(optimizer, "inner_optimizer")]
        momenta = (getattr(optimizer, "momentum", None) for optimizer in optimizers)
        carried = max((1 / max(0.01, 1 - one) for one in momenta if isinstance(one, int | float)), default=1.0)
        recurs = any(isinstance(layer, keras.layers.RNN) for layer in self.model._flatten_layers())
        return min(100.0, carried * (RECURRENT if recurs else 1))

    def program(self, applies_updates: bool, spec: Nest) -> Program:
        """Returns the program of closures over batches like `spec`.

        Args:
            applies_updates: whether closures apply the optimizer. If so, its variables are part of the program.
            spec: a batch, as a structure of tensors or of tensor specs.
        """
        model = self.model
        if not all(metric.variables for metric in metrics_of(model)):
            # Some metrics make their variables when they are first updated.
            self.record(spec)
        # Evaluation does not use the optimizer, so its variables are not exchanged.
        used: list[keras.Variable] = []
        if applies_updates:
            optimizers = optimizers_of(model)
            if not all(optimizer.built for optimizer in optimizers):
                # A traced step builds the optimizers that it applies, and only then are their slots known.
                self.record(spec)
            used += [variable for optimizer in optimizers for variable in optimizer.variables]
            moving_averages.mark_averages(model)
        _mark_layers(model)
        return Program(
            self.run,
            self.pulled(used),
            self.sums(),
            self.strategy.num_workers,
            self.strategy.step_devices,
            lambda: thread_state(global_attributes()),
            self.buffers(),
        )

    def pulled(self, others: Sequence[keras.Variable] = ()) -> list[DenseVariable]:
        """Returns the dense variables to pull: those of the model, `others`, and those found in steps."""
        # Keras does not count the states of a stateful RNN among the variables of its model.
        known = [*self.model.variables, *states_of(self.model)]
        return stored_values([*known, *others, *self._unknown.values()], DenseVariable)

    def sums(self) -> list[SumVariable]:
        """Returns the variables of all metrics of the model, and of others that its steps use, each once."""
        # A model may hide some of its metrics in a property `metrics` of its own; its steps still update them.
        known = [one for metric in metrics_of(self.model) for one in metric.variables]
        return stored_values([*known, *self._unknown.values()], SumVariable)

    def buffers(self) -> list[ExampleBuffer]:
        """Returns the buffers of the metrics that collect examples, each once."""
        if self._buffers is None:
            found = [buffer for metric in metrics_of(self.model) for buffer in buffers_of(metric)]
            self._buffers = {buffer.key: buffer for buffer in found}
        return list(self._buffers.values())

    def begin_carrying(self) -> None:
        """Gives every worker the state on the servers that it carries on by itself, such as that of a stateful RNN.

        Cost: a call to each worker, for models with such layers alone.
        """
        if self._carried is None:
            # Marked here as well: closures over fed batches are traced later, and mark them then.
            _mark_layers(self.model)
            self._carried = stored_values(states_of(self.model), DenseVariable)
        if self._carried:
            values = [(variable, variable.numpy()) for variable in self._carried]
            for worker in sorted({self.strategy.host_of(shard) for shard in range(self.strategy.num_workers)}):
                # A worker that is lost here is replaced later, by one that begins with the server's value.
                with contextlib.suppress(WorkerLostError):
                    self.strategy.pool.call(worker, functools.partial(begin_carrying, values))

    def plan(self) -> Plan:
        """Returns the plan of the variables and optimizer slots of this model, as they are placed."""
        variables = [*self.model.variables, *(v for one in optimizers_of(self.model) for v in one.variables)]
        values = stored_values(variables, (Table, DenseVariable))
        return Plan(self.strategy.num_servers, tuple(value.placement for value in values))

    def is_float32(self) -> bool:
        """Returns whether all layers of the model compute in float32."""
        # Layers without a policy of their own, such as an `InputLayer` of ids, have the dtype of what they pass.
        kinds = {layer.compute_dtype for layer in self.model._flatten_layers(include_self=False)}
        return not kinds & {"bfloat16", "float16"}

    def small_tables(self) -> list[VariableSpec]:
        """Returns the tables of this model that are dense variables."""
        return [table.placement.spec for table in stored_values(self.model.variables, SmallTable)]

    def run(self, batch: Nest, has_copies: bool = True) -> Mapping[str, tf.Tensor]:
        """Traces a step over a batch; returns the values that a worker sends for its logs.

        Args:
            batch: the batch.
            has_copies: whether the worker has copies of what the step uses.
        """
        current = step.current()
        if current is not None and current.device_number:
            return self._run_elsewhere(batch)
        with self.in_scope():
            begin = operations_so_far()
            # The first trace of a step is a recording, which shows whether it writes summaries.
            if self.uses_numbers:
                forget_name_scopes()
            values = self.values_of(self.outputs(batch, has_copies), begin)
            if has_copies:
                devices = 1 if current is None else current.devices
                plain_variables.check_assigned(begin, self.strategy.num_workers, devices)
            counters = stored_values(map(moving_averages.iterations_of, optimizers_of(self.model)), DenseVariable)
            uses_number = current is not None and current.uses_number
            self.uses_numbers = number_summaries(begin, counters) or uses_number or self.uses_numbers
            return values

    def _run_elsewhere(self, batch: Nest) -> Mapping[str, tf.Tensor]:
        """Traces a step on another device than the first, which writes the summaries of the worker."""
        with self.in_scope(), tf.summary.record_if(False):
            begin = operations_so_far()
            return self.values_of(self.outputs(batch), begin)

    def outputs(self, batch: Nest, has_copies: bool = True) -> Nest:
        """Traces a step over a batch, within `in_scope`, and returns what it returns.

        Args:
            batch: the batch.
            has_copies: whether the worker has copies of what the step uses.

        Raises:
            UnpulledError: the step uses a variable that has to be pulled, and the model does not know it.
        """
        outputs = self._step(without_optionals(batch))
        current = step.current()
        if current is not None:
            found = {seed.key: seed for seed in current.drawn if current.copy_of(seed.key) is None}
            if has_copies:
                found |= {key: one for key, one in current.uncopied.items() if isinstance(one, _COPIED)}
            self._note_buffers(current, has_copies)
            if not found.keys() <= self._unknown.keys():
                self._unknown.update(found)
                raise UnpulledError
        return outputs

    def _note_buffers(self, current: step.Step, has_copies: bool) -> None:
        """Takes note of the metrics that collect examples and are no attributes of the model.

        Raises:
            UnpulledError: there are some.
        """
        known = {buffer.key for buffer in self.buffers()}
        missing = [one for one in current.uncopied.values() if isinstance(one, ExampleBuffer) and one.key not in known]
        if missing and has_copies:
            assert self._buffers is not None
            self._buffers.update((one.key, one) for one in missing)
            raise UnpulledError

    @contextlib.contextmanager
    def in_scope(self) -> Iterator[None]:
        """The context in which Keras traces a model's methods."""
        # Keras uses the replica context in `train_step`. Each worker is one replica.
        replica = tf.distribute.ReplicaContext(self.strategy, replica_id_in_sync_group=0)
        # The step may be in the body of a loop of ours, whose name must not show in the tags of `tf.summary`.
        no_name = tf.compat.v1.get_default_graph().name_scope(None)
        with summary_scope(self.summary_state), self.strategy.scope(), replica, no_name:
            yield

    def values_of(self, logs: Nest, begin: int) -> Mapping[str, tf.Tensor]:
        """Returns the values that a worker sends for what a traced step returned as logs.

        Args:
            logs: what the step returned.
            begin: the number of operations in the graph before the step.

        Raises:
            UnsupportedError: the logs cannot be shown for several workers.
        """
        returned = ReturnedLogs(logs, self.sums(), self.model.get_metrics_result, begin)
        # All traces of a step return the same logs. Keeping the first one keeps what the chief has made of it.
        if self.returned is None or self.returned.layout != returned.layout:
            self.returned = returned
        return returned.values

    def record(self, spec: Nest) -> None:
        """Traces a step over a batch like `spec` in a graph that is thrown away. It builds what is not built yet."""
        with contextlib.suppress(UnpulledError):
            Recording(self._run_alone, spec)

    def _run_alone(self, lookups: DirectLookups, batch: Nest) -> Mapping[str, tf.Tensor]:
        """Traces a step on the variables of the servers, without copies."""
        with step.tracing(step.Step(lookups, {})):
            return self.run(batch, has_copies=False)


def _mark_layers(model: keras.Model) -> None:
    """Marks the dense variables of layers that servers constrain, and those that each worker carries on by itself."""
    for variable in model.trainable_variables:
        for value in stored_values([variable], DenseVariable):
            value.constraint = variable.constraint
    for value in stored_values(states_of(model), DenseVariable):
        value.carried = True


def states_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the states that layers carry from one batch to the next."""
    return [
        state
        for layer in model._flatten_layers()
        if carries_state(layer)
        for state in tree.flatten(layer.states)
        if state is not None
    ]


def buffers_of(metric: keras.Metric) -> list[ExampleBuffer]:
    """Returns the buffers of a metric of ours that collects examples, and of the metrics within it."""
    own = getattr(metric, "tfps_buffer", None)
    # The compiled metrics of Keras are a metric with others in it.
    inner = [*getattr(metric, "metrics", ()), *getattr(metric, "_metrics", ())]
    found = [*([] if own is None else [own]), *(buffer for one in inner for buffer in buffers_of(one))]
    return list({buffer.key: buffer for buffer in found}.values())


def operations_so_far() -> int:
    """Returns the number of operations in the current graph."""
    return len(tf.compat.v1.get_default_graph().get_operations())


def without_optionals(batch: Nest) -> Nest:
    """Replaces every Optional in a batch by None."""
    # Keras passes a missing sample weight as an empty Optional.
    return tree.map_structure(lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch)
