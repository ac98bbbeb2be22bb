"""Partitioners: the rules that say into how many shards a table is split. A balancer then places the shards.

Only tables are split. A step needs all of a dense variable, so splitting it saves no traffic and makes every step wait
for the slowest of several servers. Split biases and seed states also break saving in Keras.
"""

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

from tfps.checks import check_callable, check_integer
from tfps.errors import PlanError
from tfps.placement.spec import VariableSpec


class Partitioner(Protocol):
    """Maps (spec, num_servers) to a number of shards, 1 to spec.rows. Pure and cheap: asked once a variable."""

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Number of shards of `spec`."""
        ...


AnyPartitioner: TypeAlias = Partitioner | Callable[..., Sequence[int]]
"""One of ours, or one of TensorFlow's, which takes (shape, dtype) and returns the parts of each axis."""


@dataclasses.dataclass(frozen=True)
class FixedShards:
    """Every table in the same number of shards (fewer where it has fewer rows).

    Args:
        shards: at least 1; more than there are servers puts several shards of a table on a server.
    """

    shards: int

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_positive(self, "shards")

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Number of shards of `spec`."""
        return _clamp(self.shards, spec, self.shards)


@dataclasses.dataclass(frozen=True)
class MinBytes:
    """As many shards as there are servers, as long as each holds at least `min_shard_bytes`.

    Args:
        min_shard_bytes: a smaller shard costs more in operations than it saves in load.
        max_shards: upper limit; the number of servers where None.
    """

    min_shard_bytes: int = 256 << 10
    max_shards: int | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_positive(self, "min_shard_bytes")
        _check_positive(self, "max_shards", optional=True)

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Number of shards of `spec`."""
        return _clamp(spec.nbytes // self.min_shard_bytes, spec, self.max_shards or num_servers)


@dataclasses.dataclass(frozen=True)
class MaxBytes:
    """As few shards as keep each at or below `max_shard_bytes`, for servers with little memory or limits on a file.

    Args:
        max_shard_bytes: a shard of whole rows may pass it only where a single row does.
        max_shards: upper limit, which wins over `max_shard_bytes`; None for no limit.
    """

    max_shard_bytes: int
    max_shards: int | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_positive(self, "max_shard_bytes")
        _check_positive(self, "max_shards", optional=True)

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Number of shards of `spec`."""
        rows_per_shard = max(1, self.max_shard_bytes // max(1, spec.row_bytes))
        return _clamp(math.ceil(spec.rows / rows_per_shard), spec, self.max_shards or spec.rows)


@dataclasses.dataclass(frozen=True)
class Auto:
    """Large tables go over all servers, one shard a server; medium ones over some; small ones stay whole.

    Args:
        min_shard_rows: rows a shard must have. It can be small: a step sends each server one request for all of its
            shards, so one more shard costs microseconds. A whole table that every example looks up would be too coarse
            to balance: with 26 tables on 8 servers it is a third of the lookups of its server.
        min_shard_bytes: a shard with fewer rows is allowed if it has this many bytes, for tables of very wide rows.
    """

    min_shard_rows: int = 32
    min_shard_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_positive(self, "min_shard_rows")
        _check_positive(self, "min_shard_bytes")

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Number of shards of `spec`."""
        wanted = max(spec.rows // self.min_shard_rows, spec.nbytes // self.min_shard_bytes)
        return _clamp(wanted, spec, num_servers)


@dataclasses.dataclass(frozen=True)
class FromTensorFlow:
    """Wraps a partitioner of TensorFlow, such as `tf.distribute.experimental.partitioners.MinSizePartitioner`.

    Args:
        partitioner: called with `shape` and `dtype`; returns the parts of each axis, of which only the first may be
            split, as [parts, 1, ...].
    """

    partitioner: Callable[..., Sequence[int]]

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Number of shards of `spec`."""
        if not spec.is_table:
            return 1
        shape, dtype = _to_tensorflow(spec)
        parts = [int(part) for part in self.partitioner(shape=shape, dtype=dtype)]
        if not parts or parts[0] < 1 or any(part != 1 for part in parts[1:]):
            raise PlanError(
                f"`partitioner` must split variable {spec.name!r} along its first axis only. Received: {parts} "
                f"from {self.partitioner!r}."
            )
        return _clamp(parts[0], spec, parts[0])


def _to_tensorflow(spec: VariableSpec) -> tuple[Any, Any]:
    """Returns shape and type as TensorFlow's own classes, which its partitioners check for.

    A user who passes such a partitioner has imported TensorFlow, so it is only looked up. Planning never imports it.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        raise PlanError(f"`partitioner` of TensorFlow needs TensorFlow imported. Received: none, for {spec.name!r}.")
    return tensorflow.TensorShape(spec.shape), tensorflow.as_dtype(spec.dtype)


def as_partitioner(partitioner: AnyPartitioner | None, name: str = "partitioner") -> Partitioner:
    """Returns the given partitioner, wrapped if it is TensorFlow's; `Auto()` for None.

    Args:
        partitioner: what the user gave.
        name: of the argument it was given as, for the message.

    Raises:
        PlanError: it is not a partitioner.
    """
    if partitioner is None:
        return Auto()
    if isinstance(partitioner, FixedShards | MinBytes | MaxBytes | Auto | FromTensorFlow):
        return partitioner
    check_callable(name, partitioner, "a partitioner of tfps or TensorFlow", error=PlanError)
    return _by_signature(partitioner)


def _by_signature(partitioner: AnyPartitioner) -> Partitioner:
    """Tells partitioners apart by their arguments: ours take (spec, num_servers), TensorFlow's (shape, dtype)."""
    names = list(inspect.signature(partitioner).parameters)
    if "spec" in names and "num_servers" in names:
        return cast(Partitioner, partitioner)
    return FromTensorFlow(cast("Callable[..., Sequence[int]]", partitioner))


def _clamp(shards: int, spec: VariableSpec, limit: int) -> int:
    """Limits a number of shards to 1 .. min(limit, rows); it is 1 for a dense variable."""
    return max(1, min(shards, limit, spec.rows)) if spec.is_table else 1


def _check_positive(partitioner: Partitioner, name: str, optional: bool = False) -> None:
    """Checks a field. An integer of numpy becomes one of Python, because JSON knows no other."""
    value = getattr(partitioner, name)
    if value is None and optional:
        return
    valid = "None for no limit" if optional else ""
    object.__setattr__(partitioner, name, check_integer(name, value, at_least=1, error=PlanError, valid=valid))
