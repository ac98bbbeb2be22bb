"""Makes each variable where the plan says: names it, places it, and keeps slots beside what they belong to.

Threading: used by the thread that builds models. Ownership: it holds the variables it made weakly.
"""

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfps.embedding.table import Table
from tfps.placement.model import Plan
from tfps.placement.planner import IncrementalPlacer
from tfps.placement.spec import VariableSpec
from tfps.strategy.creation import Recipe, create_dense, create_sum, create_table, is_slot_shape
from tfps.strategy.variables import DenseVariable, SumVariable


class VariableFactory:
    """Creates the variables of one strategy.

    Args:
        num_ps: parameter servers of the cluster.
        partitioner: how tables are split; None for over all servers.
        plan: a plan to follow; None to place variables as they are made.

    Raises:
        ConfigError: the partitioner is none.
        PlanError: the plan is for another number of servers.
    """

    def __init__(self, num_ps: int, partitioner: Callable[..., Any] | None, plan: Plan | None) -> None:
        self._placer = IncrementalPlacer(num_ps, partitioner, plan=plan)
        # A plan need not name counters of optimizers and the like; where it does not, they are placed by load.
        self._bookkeeping_placer = self._placer if plan is None else IncrementalPlacer(num_ps)
        self._slot_of: object = None
        self._uses_of_name: dict[str, int] = {}
        self._dense: list[weakref.ref[DenseVariable]] = []

    @property
    def plan(self) -> Plan:
        """Where every variable made so far lives."""
        return self._placer.plan

    @property
    def dense_variables(self) -> list[DenseVariable]:
        """The dense variables made here that are still in use."""
        return [variable for variable in (reference() for reference in self._dense) if variable is not None]

    @contextlib.contextmanager
    def slots_of(self, variable: object) -> Iterator[None]:
        """Variables made inside are optimizer slots of `variable` and lie beside it, row for row."""
        before, self._slot_of = self._slot_of, variable
        try:
            yield
        finally:
            self._slot_of = before

    def create(
        self, spec: VariableSpec, recipe: Recipe, *, summed: bool = False
    ) -> Table | DenseVariable | SumVariable:
        """Creates a variable where the plan says.

        Args:
            spec: the variable; a name that was used before gets a number.
            recipe: its first value.
            summed: whether it is the state of a metric, kept on the chief as a sum over the workers.
        """
        if summed:
            return create_sum(spec, recipe)
        spec = dataclasses.replace(spec, name=self._unique(spec.name))
        # Most slots have the shape of their variable. One that has not (a counter) is placed as any other variable.
        if isinstance(self._slot_of, Table) and is_slot_shape(spec.shape, self._slot_of):
            spec = dataclasses.replace(spec, is_table=True)
            placement = self._placer.place_like(spec, self._slot_of.placement)
            return self._slot_of.create_slot(placement, recipe.initial)
        beside = self._slot_of.placement if isinstance(self._slot_of, DenseVariable) else None
        # A slot has the shape of its variable, or one number for each row of it.
        if beside is not None and spec.shape in (beside.spec.shape, (*beside.spec.shape[:1], 1)):
            placement = self._placer.place_like(spec, beside)
        else:
            placement = self._placer_of(spec, recipe).place(spec)
        if spec.is_table:
            return create_table(placement, recipe, spec.trainable)
        variable = create_dense(placement, recipe, spec.trainable)
        self._dense.append(weakref.ref(variable))
        return variable

    def _placer_of(self, spec: VariableSpec, recipe: Recipe) -> IncrementalPlacer:
        """The placer for a variable that is nobody's slot; a plan that names bookkeeping is followed there too."""
        unplanned = recipe.bookkeeping and not self._placer.is_planned(spec.name)
        return self._bookkeeping_placer if unplanned else self._placer

    def place_plain(self, request: dict[str, Any]) -> int:
        """The server for a plain `tf.Variable`, from the arguments of its creator."""
        # What the caller knows: an initial value, or a function that makes it and maybe a shape.
        value, dtype = request.get("initial_value"), request.get("dtype")
        shape = request.get("shape")
        if shape is None and not callable(value) and value is not None:
            value = tf.convert_to_tensor(value, dtype)
            shape, dtype = value.shape, value.dtype
        # Of unknown shape it counts as a scalar: it has to be somewhere.
        known = shape is not None and tf.TensorShape(shape).is_fully_defined()
        size = tuple(tf.TensorShape(shape).as_list()) if known else ()
        spec = VariableSpec(
            self._unique(request.get("name") or "Variable"), size, tf.as_dtype(dtype or tf.float32).name
        )
        return self._placer.place(spec).servers[0]

    def _unique(self, name: str) -> str:
        """The name, with a number if it was used before: "kernel", "kernel:1"."""
        count = self._uses_of_name.get(name, 0)
        self._uses_of_name[name] = count + 1
        return f"{name}:{count}" if count else name
