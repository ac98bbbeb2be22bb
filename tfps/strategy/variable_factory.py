"""`VariableFactory`: names each variable, places it by the plan, and puts slots beside their variable.

Threading: the thread that builds models uses it. Ownership: it has only weak references to the variables.
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
from tfps.placement.small_tables import DENSE_TABLES_BYTES, SmallTables
from tfps.placement.spec import TableDtypes, VariableSpec
from tfps.strategy.creation import Recipe, create_dense, create_sum, create_table, is_slot_shape
from tfps.strategy.variables import DenseVariable, SumVariable


@dataclasses.dataclass
class TableUse:
    """A table that was made here, and what its slots take.

    Attributes:
        reference: the table, weakly.
        slot_row_bytes: bytes of all slots of one row.
    """

    reference: "weakref.ref[Table]"
    slot_row_bytes: int = 0


class VariableFactory:
    """Creates the variables of one strategy.

    Args:
        num_ps: the number of parameter servers.
        partitioner: a function that splits tables; None to spread large tables over all servers.
        plan: a plan to follow; None to place variables as they are made.
        dense_tables_bytes: the bytes of tables that a model may have as dense variables.
        keep_repeats: whether tables keep the gradients of repeated ids apart (`RoutedRows.keeps_repeats`).
        stored: the types in which servers keep tables; None for those of their variables.

    Raises:
        ConfigError: `partitioner` is not a partitioner.
        PlanError: the plan is for another number of servers.
    """

    def __init__(
        self,
        num_ps: int,
        partitioner: Callable[..., Any] | None,
        plan: Plan | None,
        dense_tables_bytes: int = DENSE_TABLES_BYTES,
        keep_repeats: bool = False,
        stored: TableDtypes | None = None,
    ) -> None:
        self.stored = stored or TableDtypes()
        self.small_tables = SmallTables(dense_tables_bytes)
        self.keep_repeats = keep_repeats
        self._placer = IncrementalPlacer(num_ps, partitioner, plan=plan)
        # A plan need not name the counters of optimizers and the like. This placer places those by load.
        self._bookkeeping_placer = self._placer if plan is None else IncrementalPlacer(num_ps)
        # The variable whose slots are being made; None outside `slots_of`.
        self._slot_of: object = None
        self._uses_of_name: dict[str, int] = {}
        # Weak, because the variables of a dropped model must be freed on their servers.
        self._dense: list[weakref.ref[DenseVariable]] = []
        self._tables: list[TableUse] = []

    @property
    def plan(self) -> Plan:
        """The placement of every variable made so far."""
        return self._placer.plan

    @property
    def plan_without_slots(self) -> Plan:
        """The placement of the variables in use, without slots beside their variable: those follow from its own."""
        used = {table.placement.spec.name for table, _ in self.tables}
        used |= {variable.placement.spec.name for variable in self.dense_variables}
        plan = self._placer.plan_without_slots
        return Plan(plan.num_servers, tuple(placement for placement in plan if placement.spec.name in used))

    @property
    def dense_variables(self) -> list[DenseVariable]:
        """The dense variables made here that are still in use."""
        return [variable for variable in (reference() for reference in self._dense) if variable is not None]

    @property
    def tables(self) -> list[tuple[Table, int]]:
        """The tables made here that are still in use, slots left out, with the bytes of all slots of one row."""
        self._tables = [use for use in self._tables if use.reference() is not None]
        found = [(use.reference(), use.slot_row_bytes) for use in self._tables]
        return [(table, slot_row_bytes) for table, slot_row_bytes in found if table is not None]

    @contextlib.contextmanager
    def slots_of(self, variable: object) -> Iterator[None]:
        """Makes new variables optimizer slots of `variable`. Each slot row goes to the server of its row."""
        before, self._slot_of = self._slot_of, variable
        try:
            yield
        finally:
            self._slot_of = before

    def create(
        self, spec: VariableSpec, recipe: Recipe, *, summed: bool = False
    ) -> Table | DenseVariable | SumVariable:
        """Creates a variable at the placement that the plan gives.

        Args:
            spec: the spec of the variable. If its name was used before, the variable's name gets a number.
            recipe: the other settings of the variable.
            summed: whether the variable is the state of a metric, which the chief keeps as a sum over the workers.
        """
        # The chief holds all sums, so they need no placement and no unique name.
        if summed:
            return create_sum(spec, recipe)
        spec = dataclasses.replace(spec, name=self._make_unique(spec.name))
        if spec.is_table and recipe.may_be_dense and self._is_small(spec):
            spec = dataclasses.replace(spec, is_table=False)
            recipe = dataclasses.replace(recipe, is_small_table=True)
        # Not before: a table that becomes a dense variable keeps the type of the variable.
        if spec.is_table:
            spec = self.stored.of_table(spec)
        # Most variables that an optimizer makes for a table are slots with a row for each row. Others (a counter, say)
        # are placed like any other variable.
        if isinstance(self._slot_of, Table) and is_slot_shape(spec.shape, self._slot_of):
            of_slots = self._slot_of.placement.spec.slots_dtype if spec.shape[1] == self._slot_of.dim else None
            spec = dataclasses.replace(spec, is_table=True, stored_dtype=of_slots, slots_dtype=None)
            placement = self._placer.place_like(spec, self._slot_of.placement)
            for use in self._tables:
                if use.reference() is self._slot_of:
                    use.slot_row_bytes += spec.row_bytes
            return self._slot_of.create_slot(placement, recipe.initial)
        beside = self._slot_of.placement if isinstance(self._slot_of, DenseVariable) else None
        # A slot has the shape of its variable, or one number for each row of the variable.
        if beside is not None and spec.shape in (beside.spec.shape, (*beside.spec.shape[:1], 1)):
            placement = self._placer.place_like(spec, beside)
        else:
            placement = self._choose_placer(spec, recipe).place(spec)
        if spec.is_table:
            table = create_table(placement, recipe, spec.trainable)
            # The messages of a table that grows have no room for the marks of ids that repeat.
            table.keeps_repeats = self.keep_repeats and not table.grows
            self._tables.append(TableUse(weakref.ref(table)))
            return table
        variable = create_dense(placement, recipe, spec.trainable)
        self._dense.append(weakref.ref(variable))
        return variable

    def may_be_dense(self, spec: VariableSpec) -> bool:
        """Returns whether a table of this size may become a dense variable; others may use up the limit first."""
        return self._placer.follows_plan or spec.nbytes <= self.small_tables.limit

    def _is_small(self, spec: VariableSpec) -> bool:
        """Returns whether a table is to be a dense variable. A plan that has the table decides."""
        planned = self._placer.find_planned(spec.name)
        return not planned.spec.is_table if planned is not None else self.small_tables.take(spec)

    def _choose_placer(self, spec: VariableSpec, recipe: Recipe) -> IncrementalPlacer:
        """Returns the placer for a variable that is not a slot."""
        # A plan may name bookkeeping variables, and then it is followed for them too.
        unplanned = recipe.bookkeeping and self._placer.find_planned(spec.name) is None
        return self._bookkeeping_placer if unplanned else self._placer

    def place_plain(self, request: dict[str, Any]) -> int:
        """Returns the server for a plain `tf.Variable`.

        Args:
            request: the keyword arguments of TensorFlow's variable creator.
        """
        # The caller passes an initial value, or a function that makes it and perhaps a shape.
        value, dtype = request.get("initial_value"), request.get("dtype")
        shape = request.get("shape")
        if shape is None and not callable(value) and value is not None:
            value = tf.convert_to_tensor(value, dtype)
            shape, dtype = value.shape, value.dtype
        # A variable of unknown shape counts as a scalar, because it needs a server too.
        known = shape is not None and tf.TensorShape(shape).is_fully_defined()
        size = tuple(tf.TensorShape(shape).as_list()) if known else ()
        spec = VariableSpec(
            self._make_unique(request.get("name") or "Variable"), size, tf.as_dtype(dtype or tf.float32).name
        )
        return self._placer.place(spec).servers[0]

    def _make_unique(self, name: str) -> str:
        """Returns the name, with a number if it was used before: "kernel", "kernel:1"."""
        count = self._uses_of_name.get(name, 0)
        self._uses_of_name[name] = count + 1
        return f"{name}:{count}" if count else name
