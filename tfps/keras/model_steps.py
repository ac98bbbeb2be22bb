"""The steps of a Keras model, as closures run them: its `train_step` or `test_step`, and the variables these use."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.keras import moving_averages
from tfps.keras._compat import tree
from tfps.keras.optimizers import of_model
from tfps.keras.variables import stored_values
from tfps.placement.model import Plan
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import DenseVariable, SumVariable
from tfps.training.closure import Program
from tfps.training.hoisting import DirectLookups, Recording
from tfps.types import Nest


class ModelSteps:
    """What closures and modes need of a Keras model of our strategy.

    Args:
        model: the model. It owns this object by its train or test function, so this refers to it weakly.
        step: `model.train_step` or `model.test_step`.

    Attributes:
        model: the model.
        strategy: whose workers run the steps.

    Threading: steps are traced in the main thread, and in the threads of the pool for fed batches.
    """

    def __init__(self, model: keras.Model, step: Callable[[Nest], Nest]) -> None:
        self.model: keras.Model = weakref.proxy(model)
        self.strategy: ParameterServerStrategy = model.distribute_strategy
        self._step = step

    def closure_steps(self) -> int:
        """Steps of a closure that the user chose: of this model, else of the strategy."""
        chosen = int(self.model.steps_per_execution)
        return chosen if chosen > 1 else self.strategy.dense_exchange_every

    def trained_steps(self) -> int:
        """Steps that the model was trained for, as its optimizer counts them."""
        return int(self.model.optimizer.iterations)

    def program(self, applies_updates: bool, spec: Nest) -> Program:
        """The program of closures over batches like `spec`.

        Args:
            applies_updates: whether closures apply the optimizer, so that its variables are part of the program.
            spec: structure of tensors or of their specs.
        """
        model, optimizers = self.model, of_model(self.model)
        # The same model may be evaluated without its optimizer: its variables do not cross then.
        kept = list(model.variables)
        if applies_updates:
            if not all(optimizer.built for optimizer in optimizers):
                # A step builds the optimizers that it applies; only then their slots are known.
                Recording(self._run_alone, spec)
            kept += [variable for optimizer in optimizers for variable in optimizer.variables]
            moving_averages.note_averages(model)
        return Program(
            self.run, stored_values(kept, DenseVariable), stored_values(model.metrics_variables, SumVariable)
        )

    def plan(self) -> Plan:
        """Where the variables of this model are, and what its optimizers keep of them."""
        kept = [*self.model.variables, *(v for one in of_model(self.model) for v in one.variables)]
        values = stored_values(kept, (Table, DenseVariable))
        return Plan(self.strategy.num_servers, tuple(value.placement for value in values))

    def run(self, batch: Nest) -> Mapping[str, tf.Tensor]:
        """Traces a step over a batch; returns the logs that no metric has."""
        with self.in_scope():
            return self.own_logs(self._step(without_optionals(batch)))

    @contextlib.contextmanager
    def in_scope(self) -> Iterator[None]:
        """The context in which Keras traces a model's methods."""
        # Keras asks for the replica context in `train_step`; there is one replica a worker.
        replica = tf.distribute.ReplicaContext(self.strategy, replica_id_in_sync_group=0)
        with self.strategy.scope(), replica:
            yield

    def own_logs(self, logs: Nest) -> Mapping[str, tf.Tensor]:
        """The logs that metrics do not give."""
        # Metrics are added up over all workers; a worker's own value of one would be that of a few steps.
        known, logs = set(self.model.get_metrics_result()), _flat(logs)
        return {} if not isinstance(logs, Mapping) or set(logs) <= known else logs

    def _run_alone(self, lookups: DirectLookups, batch: Nest) -> Mapping[str, tf.Tensor]:
        """A step on what the servers hold, without copies."""
        with step.tracing(step.Step(lookups, {})):
            return self.run(batch)


def _flat(logs: Nest) -> Nest:
    """Logs of one level: the result of all compiled metrics is a dictionary, which Keras flattens too."""
    if not isinstance(logs, Mapping):
        return logs
    levels = [_flat(value) if isinstance(value, Mapping) else {name: value} for name, value in logs.items()]
    return {name: value for level in levels for name, value in level.items()}


def without_optionals(batch: Nest) -> Any:
    """Keras passes a missing sample weight as an empty Optional."""
    return tree.map_structure(lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch)
