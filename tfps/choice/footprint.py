"""`Footprint`: what a model needs, in bytes and operations of one step of one replica. No TensorFlow here."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec
from tfps.placement.traffic import table_traffic

ID_BYTES = 8
"""An id is an int64 wherever it crosses."""


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """What one step of one replica keeps and computes.

    Args:
        activation_bytes: tensors of the forward pass that the backward pass reads.
        largest_bytes: the largest of these tensors.
        flops: floating-point operations of matrix products and convolutions, forward and backward.
        operations: operations of both passes that run, those of loops in each turn.
        written_bytes: what these operations write.
        guessed: the number of tensors whose size depends on the data; unknown dimensions count as the batch size.
        endless: whether a loop has a number of turns that the graph does not say; it counts as one turn.
    """

    activation_bytes: int = 0
    largest_bytes: int = 0
    flops: float = 0.0
    operations: int = 0
    written_bytes: int = 0
    guessed: int = 0
    endless: bool = False


@dataclasses.dataclass(frozen=True)
class Footprint:
    """The sizes of a model and of its step. All sizes are in bytes.

    Args:
        batch_size: examples in a step of one replica.
        specs: the variables; tables have `is_table`.
        step: what a step keeps and computes.
        input_bytes: a batch of inputs.
        row_wise: whether the optimizer updates single rows of tables. If not, a gradient is as large as its table.
        whole_tables: the names of tables that a step reads whole. In `specs` they are dense variables.
        mode: the mode of the optimizer, "Geo" or "Sync", which only parameter servers have; "" for Keras's own.
    """

    batch_size: int
    specs: tuple[VariableSpec, ...]
    step: StepCounts
    input_bytes: int = 0
    row_wise: bool = True
    whole_tables: tuple[str, ...] = ()
    mode: str = ""

    @property
    def servers_only(self) -> str:
        """What only parameter servers have of what the model uses, as a clause; "" if nothing."""
        if self.mode:
            return f"the optimizer is in {self.mode} mode"
        growing = next((spec.name for spec in self.specs if spec.growing), "")
        return f"table {growing!r} grows" if growing else ""

    @property
    def variable_bytes(self) -> int:
        """All variables, without slots."""
        return _sum(self.specs, lambda spec: spec.nbytes)

    @property
    def slot_bytes(self) -> int:
        """The slots of the optimizer."""
        return _sum(self.specs, lambda spec: spec.bytes_with_slots - spec.nbytes)

    @property
    def table_bytes(self) -> int:
        """Tables, with their slots."""
        return _sum(self._tables, lambda spec: spec.bytes_with_slots)

    @property
    def dense_bytes(self) -> int:
        """All other variables, with their slots."""
        return _sum(self._dense, lambda spec: spec.bytes_with_slots)

    @property
    def dense_gradient_bytes(self) -> int:
        """The gradients of all variables that are no tables."""
        return _sum(self._dense, lambda spec: spec.nbytes if spec.trainable else 0)

    @property
    def unique_rows(self) -> float:
        """The rows that a step looks up in all tables, each once. Estimated by Zipf's law, as for a plan."""
        return sum(self._rows.values())

    @property
    def row_bytes(self) -> float:
        """The rows that a step looks up, each once, without slots."""
        return sum(rows * spec.row_bytes for spec, rows in self._rows.items())

    @property
    def row_gradient_bytes(self) -> float:
        """The gradients of tables: those of the looked-up rows, or of whole tables if the optimizer is not row-wise."""
        if self.row_wise:
            return sum(rows * spec.row_bytes for spec, rows in self._rows.items() if spec.trainable)
        return float(_sum(self._tables, lambda spec: spec.nbytes if spec.trainable else 0))

    @property
    def gradient_bytes(self) -> float:
        """All gradients of a step."""
        return self.dense_gradient_bytes + self.row_gradient_bytes

    @property
    def working_bytes(self) -> float:
        """What a step needs beside variables, slots and gradients.

        The batch, the activations and, while the backward pass is at the largest of these, its gradient and the
        gradient that is computed from that.
        """
        return self.input_bytes + self.step.activation_bytes + 2 * self.step.largest_bytes

    @property
    def replica_bytes(self) -> float:
        """The memory of a replica that holds the whole model.

        While its largest variable is initialized, that variable takes its memory twice.
        """
        training = self.variable_bytes + self.slot_bytes + self.gradient_bytes + self.working_bytes
        largest = max((spec.nbytes for spec in self.specs), default=0)
        return max(training, self.variable_bytes + largest)

    @property
    def worker_bytes(self) -> float:
        """The memory of a worker of parameter servers: copies of the dense variables, rows and their gradients."""
        rows = self.row_bytes + (self.row_gradient_bytes if self.row_wise else self.row_bytes)
        return self.dense_bytes + self.dense_gradient_bytes + rows + self.working_bytes

    @property
    def table_share(self) -> float:
        """The part of the model's bytes, slots included, that is in tables, 0 to 1."""
        whole = self.variable_bytes + self.slot_bytes
        return self.table_bytes / whole if whole else 0.0

    @property
    def has_tables(self) -> bool:
        """Whether there are tables that parameter servers would hold."""
        return bool(self._tables)

    @property
    def suits_servers(self) -> bool:
        """Whether parameter servers can train the model, and have something to do for it."""
        return self.row_wise and (self.has_tables or bool(self.mode))

    @property
    def unknown_tables(self) -> list[str]:
        """The names of tables whose looked-up rows could not be counted; 512 a step are assumed."""
        return [spec.name for spec in self._tables if spec.rows_per_step is None]

    def largest_batch(self, limit_bytes: float, needed: Callable[["Footprint"], float]) -> int:
        """Returns the largest batch with which a replica or a worker fits; 0 if none does.

        Only what grows with the batch counts as growing: `working_bytes`, and the rest as it is for this batch.

        Args:
            limit_bytes: the memory of the device.
            needed: the memory that counts, such as `worker_bytes`.
        """
        left = limit_bytes - (needed(self) - self.working_bytes)
        return max(0, int(self.batch_size * left / self.working_bytes)) if self.working_bytes else 0

    def to_dict(self) -> dict[str, Any]:
        """Returns every number by name, for JSON."""
        names = (
            "batch_size variable_bytes slot_bytes gradient_bytes table_bytes dense_bytes table_share unique_rows "
            "row_bytes input_bytes working_bytes replica_bytes worker_bytes row_wise whole_tables mode"
        )
        return {**{name: getattr(self, name) for name in names.split()}, **dataclasses.asdict(self.step)}

    @property
    def _tables(self) -> list[VariableSpec]:
        return [spec for spec in self.specs if spec.is_table]

    @property
    def _dense(self) -> list[VariableSpec]:
        return [spec for spec in self.specs if not spec.is_table]

    @functools.cached_property
    def _rows(self) -> dict[VariableSpec, float]:
        """The rows that a step looks up in each table, each once."""
        return {spec: float(table_traffic(spec, Routing("mod", spec.rows, 1)).unique.sum()) for spec in self._tables}


def _sum(specs: Iterable[VariableSpec], size: Callable[[VariableSpec], int]) -> int:
    return sum(map(size, specs))
