"""Partitioners: the rules that say into how many shards a table is split. A balancer then places the shards.

Only tables are split. A step needs all of a dense variable, so a split saves no traffic, and every step would wait for
the slowest of several servers. Split biases and seed states also break saving in Keras.
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
    """Maps (spec, num_servers) to a number of shards, 1 to spec.rows. Pure and cheap; called once per variable."""

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Returns the number of shards of `spec`."""
        ...


AnyPartitioner: TypeAlias = Partitioner | Callable[..., Sequence[int]]
"""A partitioner of tfps, or one of TensorFlow, which takes (shape, dtype) and returns the parts of each axis."""


@dataclasses.dataclass(frozen=True)
class FixedShards:
    """Splits every table into the same number of shards, or into single rows if it has fewer.

    Args:
        shards: the number of shards, at least 1. With more shards than servers a server holds several shards.
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
    """Splits a table into as many shards as there are servers, as long as each has at least `min_shard_bytes`.

    Args:
        min_shard_bytes: the least size of a shard. A smaller one costs more in operations than it saves in load.
        max_shards: upper limit; None for the number of servers.
    """

    min_shard_bytes: int = 256 << 10
    max_shards: int | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_positive(self, "min_shard_bytes")
        _check_positive(self, "max_shards", optional=True)

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Returns the number of shards of `spec`."""
        # Example: a table of 1 MB on 8 servers with shards of at least 256 kB gets 4 shards.
        return _clamp(spec.nbytes // self.min_shard_bytes, spec, self.max_shards or num_servers)


@dataclasses.dataclass(frozen=True)
class MaxBytes:
    """Splits a table into as few shards as keep each within `max_shard_bytes`.

    Choose it for servers with little memory or for limits on the size of a file.

    Args:
        max_shard_bytes: the largest size of a shard. Only a single row may exceed it.
        max_shards: upper limit, which takes precedence over `max_shard_bytes`; None for no limit.
    """

    max_shard_bytes: int
    max_shards: int | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_positive(self, "max_shard_bytes")
        _check_positive(self, "max_shards", optional=True)

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Returns the number of shards of `spec`."""
        # Both limits of 1 guard divisions: a row may be wider than the limit, or have no elements at all.
        rows_per_shard = max(1, self.max_shard_bytes // max(1, spec.row_bytes))
        return _clamp(math.ceil(spec.rows / rows_per_shard), spec, self.max_shards or spec.rows)


@dataclasses.dataclass(frozen=True)
class Auto:
    """Splits large tables over all servers, one shard per server, and medium tables over some; small ones stay whole.

    Args:
        min_shard_rows: the least number of rows of a shard. It can be small: a step sends each server one request for
            all of its shards, so one more shard costs microseconds. Whole tables that every example looks up would be
            too coarse to balance: with 26 tables on 8 servers, each is a third of its server's lookups.
        min_shard_bytes: a shard with fewer rows is allowed if it has this many bytes, for tables with very wide rows.
    """

    min_shard_rows: int = 32
    min_shard_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        """Checks the fields."""
        _check_positive(self, "min_shard_rows")
        _check_positive(self, "min_shard_bytes")

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Returns the number of shards of `spec`."""
        # Either limit is enough to justify a shard.
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
        """Returns the number of shards of `spec`."""
        # TensorFlow's partitioners would also split dense variables, so they are not asked about those.
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
    """Returns shape and type as TensorFlow's classes, which its partitioners require."""
    # Planning never imports TensorFlow. A user who passes such a partitioner has imported it already.
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        raise PlanError(f"`partitioner` of TensorFlow needs TensorFlow imported. Received: none, for {spec.name!r}.")
    return tensorflow.TensorShape(spec.shape), tensorflow.as_dtype(spec.dtype)


def as_partitioner(partitioner: AnyPartitioner | None, name: str = "partitioner") -> Partitioner:
    """Returns the given partitioner, wrapped if it is TensorFlow's; `Auto()` for None.

    Args:
        partitioner: the user's argument.
        name: the name of that argument, for the message.

    Raises:
        PlanError: it is not a partitioner.
    """
    if partitioner is None:
        return Auto()
    if isinstance(partitioner, FixedShards | MinBytes | MaxBytes | Auto | FromTensorFlow):
        return partitioner
    check_callable(name, partitioner, "a partitioner of tfps or TensorFlow", error=PlanError)
    return _wrap_by_signature(partitioner)


def _wrap_by_signature(partitioner: AnyPartitioner) -> Partitioner:
    """Returns a partitioner with the arguments (spec, num_servers), and wraps one with TensorFlow's (shape, dtype)."""
    # By name, because a wrong guess by the number of arguments would fail inside the user's function.
    names = list(inspect.signature(partitioner).parameters)
    if "spec" in names and "num_servers" in names:
        return cast(Partitioner, partitioner)
    return FromTensorFlow(cast("Callable[..., Sequence[int]]", partitioner))


def _clamp(shards: int, spec: VariableSpec, limit: int) -> int:
    """Limits a number of shards to 1 .. min(limit, rows); returns 1 for a dense variable."""
    return max(1, min(shards, limit, spec.rows)) if spec.is_table else 1


def _check_positive(partitioner: Partitioner, name: str, optional: bool = False) -> None:
    """Checks a field of a partitioner, and turns an integer of numpy into Python's, which JSON needs."""
    value = getattr(partitioner, name)
    if value is None and optional:
        return
    valid = "None for no limit" if optional else ""
    # The dataclass is frozen, so the field cannot be assigned the usual way.
    object.__setattr__(partitioner, name, check_integer(name, value, at_least=1, error=PlanError, valid=valid))
