"""The steps of a Keras model for closures: its `train_step` or `test_step`, and the variables that they use."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping

import keras
import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.keras import moving_averages
from tfps.keras._compat import tree
from tfps.keras.optimizers import optimizers_of
from tfps.keras.variables import stored_values
from tfps.placement.advice import default_exchange_every
from tfps.placement.model import Plan
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import DenseVariable, SumVariable
from tfps.training.closure import Program
from tfps.training.hoisting import DirectLookups, Recording
from tfps.types import Nest


class ModelSteps:
    """The parts of a Keras model that closures and modes need.

    Args:
        model: a Keras model of our strategy. Its train or test function owns this object, so the reference is weak.
        step: `model.train_step` or `model.test_step`.

    Attributes:
        model: a weak proxy of the model.
        strategy: the strategy whose workers run the steps.

    Threading: steps are traced in the main thread; steps over fed batches are traced in the threads of the pool.
    """

    def __init__(self, model: keras.Model, step: Callable[[Nest], Nest]) -> None:
        self.model: keras.Model = weakref.proxy(model)
        self.strategy: ParameterServerStrategy = model.distribute_strategy
        self._step = step

    def closure_steps(self) -> int:
        """Returns the number of steps in a closure, as set on the model or else on the strategy."""
        # 1 is the default of `steps_per_execution`, and means that the user has not chosen.
        chosen = int(self.model.steps_per_execution)
        return chosen if chosen > 1 else self.strategy.dense_exchange_every

    def exchange_steps(self) -> int:
        """Returns the most steps of a closure that trains asynchronously: fewer with a momentum, unless they are set.

        The default bounds the steps that servers have not seen. A momentum carries each of them further, so it divides
        that bound: 32 steps of all workers without one, 3 with a momentum of 0.9.
        """
        steps, workers = self.closure_steps(), self.strategy.num_workers
        is_default = int(self.model.steps_per_execution) == 1 and steps == default_exchange_every(workers)
        return max(1, int(steps / self.update_memory())) if is_default and workers > 1 else steps

    def trained_steps(self) -> int:
        """Returns the number of steps that the model has been trained for, as its optimizers count them."""
        # A custom `train_step` may leave the compiled optimizer alone, or be compiled with none.
        return max((int(optimizer.iterations) for optimizer in optimizers_of(self.model)), default=0)

    def update_memory(self) -> float:
        """Returns the number of steps for which an update moves the weights: 1 / (1 - momentum), at most 100.

        Adam and its relatives divide by the size of their gradients, so their averages do not carry steps further.
        """
        momenta = (getattr(optimizer, "momentum", None) for optimizer in optimizers_of(self.model))
        return max((1 / max(0.01, 1 - one) for one in momenta if isinstance(one, int | float)), default=1.0)

    def program(self, applies_updates: bool, spec: Nest) -> Program:
        """Returns the program of closures over batches like `spec`.

        Args:
            applies_updates: whether closures apply the optimizer. If so, its variables are part of the program.
            spec: a batch, as a structure of tensors or of tensor specs.
        """
        model, optimizers = self.model, optimizers_of(self.model)
        # Evaluation does not use the optimizer, so its variables are not exchanged.
        used = list(model.variables)
        if applies_updates:
            if not all(optimizer.built for optimizer in optimizers):
                # A traced step builds the optimizers that it applies, and only then are their slots known.
                Recording(self._run_alone, spec)
            used += [variable for optimizer in optimizers for variable in optimizer.variables]
            moving_averages.mark_averages(model)
        return Program(
            self.run, stored_values(used, DenseVariable), stored_values(model.metrics_variables, SumVariable)
        )

    def plan(self) -> Plan:
        """Returns the plan of the variables and optimizer slots of this model, as they are placed."""
        variables = [*self.model.variables, *(v for one in optimizers_of(self.model) for v in one.variables)]
        values = stored_values(variables, (Table, DenseVariable))
        return Plan(self.strategy.num_servers, tuple(value.placement for value in values))

    def run(self, batch: Nest) -> Mapping[str, tf.Tensor]:
        """Traces a step over a batch; returns the logs that are not metrics."""
        with self.in_scope():
            return self.own_logs(self._step(without_optionals(batch)))

    @contextlib.contextmanager
    def in_scope(self) -> Iterator[None]:
        """The context in which Keras traces a model's methods."""
        # Keras uses the replica context in `train_step`. Each worker is one replica.
        replica = tf.distribute.ReplicaContext(self.strategy, replica_id_in_sync_group=0)
        with self.strategy.scope(), replica:
            yield

    def own_logs(self, logs: Nest) -> Mapping[str, tf.Tensor]:
        """Returns the logs that are not metrics."""
        # Metrics are added up over all workers. The value of one worker covers only a few of the steps.
        known, logs = set(self.model.get_metrics_result()), _flat(logs)
        return {} if not isinstance(logs, Mapping) or set(logs) <= known else logs

    def _run_alone(self, lookups: DirectLookups, batch: Nest) -> Mapping[str, tf.Tensor]:
        """Traces a step on the variables of the servers, without copies."""
        with step.tracing(step.Step(lookups, {})):
            return self.run(batch)


def _flat(logs: Nest) -> Nest:
    """Flattens nested logs into one dictionary."""
    # Keras also does this: the result of the compiled metrics is a dictionary inside the logs.
    if not isinstance(logs, Mapping):
        return logs
    levels = [_flat(value) if isinstance(value, Mapping) else {name: value} for name, value in logs.items()]
    return {name: value for level in levels for name, value in level.items()}


def without_optionals(batch: Nest) -> Nest:
    """Replaces every Optional in a batch by None."""
    # Keras passes a missing sample weight as an empty Optional.
    return tree.map_structure(lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch)
