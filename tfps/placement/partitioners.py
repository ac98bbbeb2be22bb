"""Into how many shards a table is split. A partitioner is asked before any balancer decides where the shards go.

Only tables are split. A step needs all of a dense variable, so a split one saves no traffic and makes every step wait
for the slowest of several servers; biases and seed states that are split also break saving in Keras.
"""

import dataclasses
import inspect
import math
import sys
from typing import Any, Protocol

from tfps.checks import check_callable, check_integer
from tfps.errors import PlanError
from tfps.placement.spec import VariableSpec


class Partitioner(Protocol):
    """Maps (spec, num_servers) to a number of shards, 1 to spec.rows. Pure and cheap: asked once a variable."""

    def __call__(self, spec: VariableSpec, num_servers: int) -> int:
        """Number of shards of `spec`."""
        ...


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
        min_shard_bytes: below it a shard costs more, in operations, than it spreads.
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
    """As few shards as keep each at or below `max_shard_bytes`: for servers with little memory, or limits on a file.

    Args:
        max_shard_bytes: a shard of whole rows may pass it only where a single row does.
        max_shards: upper limit, which then wins; none where None.
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
    """Large tables over all servers, one shard a server; middling ones over some; small ones whole.

    Args:
        min_shard_rows: rows a shard must have. A step asks each server once for all of its shards, so that one more
            costs it microseconds; but a table that every example asks for and that stays whole is, with 26 tables on 8
            servers, a third of a server's lookups, too coarse to even out.
        min_shard_bytes: the same by memory: rows so wide that a few of them weigh this much are split too.
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
    """A partitioner of TensorFlow, such as `tf.distribute.experimental.partitioners.MinSizePartitioner`, as it is.

    Args:
        partitioner: called with `shape` and `dtype`; returns the parts of each axis, of which only the first may be
            split, as [parts, 1, ...].
    """

    partitioner: Any

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
    """Shape and type as TensorFlow's partitioners want them; they check for the very classes, so no stand-in will do.

    Whoever holds such a partitioner has imported TensorFlow, so it is only looked up: planning does not import it.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        raise PlanError(f"`partitioner` of TensorFlow needs TensorFlow imported. Received: none, for {spec.name!r}.")
    return tensorflow.TensorShape(spec.shape), tensorflow.as_dtype(spec.dtype)


def as_partitioner(partitioner: Any, name: str = "partitioner") -> Partitioner:
    """The given partitioner; one of TensorFlow's is wrapped, None stands for `Auto()`.

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


def _by_signature(partitioner: Any) -> Partitioner:
    """Ours take (spec, num_servers), TensorFlow's (shape, dtype)."""
    names = list(inspect.signature(partitioner).parameters)
    if "spec" in names and "num_servers" in names:
        return partitioner
    return FromTensorFlow(partitioner)


def _clamp(shards: int, spec: VariableSpec, limit: int) -> int:
    """1 for a dense variable; else `shards`, at least 1, at most `limit` and the rows there are."""
    return max(1, min(shards, limit, spec.rows)) if spec.is_table else 1


def _check_positive(partitioner: Partitioner, name: str, optional: bool = False) -> None:
    """Checks a field, and makes an integer of numpy one of Python."""
    value = getattr(partitioner, name)
    if value is None and optional:
        return
    valid = "None for no limit" if optional else ""
    object.__setattr__(partitioner, name, check_integer(name, value, at_least=1, error=PlanError, valid=valid))
