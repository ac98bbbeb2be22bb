"""`Growth`: how a table grows, as a value: which ids get a row, which rows are evicted, how large the table may be."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import tensorflow as tf

from tfps.checks import check_choice, check_integer
from tfps.embedding.admission import Admission, check_admission
from tfps.embedding.eviction import Eviction, check_eviction
from tfps.errors import ConfigError
from tfps.placement.spec import GROWING_ROW_BYTES, LEAST_GROWING_BYTES, STORED_DTYPES

if TYPE_CHECKING:
    from tfps.embedding.initialization import InitialValue

EXPECTED_ROWS = 1 << 20
"""The number of rows that a plan assumes without `expected_rows` and `max_rows`."""

_FLOAT_BYTES = 4

Distribution: TypeAlias = Literal["constant", "uniform", "normal", "truncated_normal"]


@dataclasses.dataclass(frozen=True)
class FirstValue:
    """How the first value of a row follows from its id.

    Element j of the row of an id is number `id * dim + j` of the stream of a seed, so uniform and normal rows of ids
    from 0 on are those of a Keras `Embedding` with the same seed.

    Args:
        distribution: the distribution of the elements.
        a: the constant; the lower limit of "uniform"; the mean of the others.
        b: the upper limit of "uniform"; the standard deviation of the others.
        seed: the seed of the initializer.
    """

    distribution: Distribution = "constant"
    a: float = 0.0
    b: float = 0.0
    seed: int = 0

    @property
    def mean(self) -> float:
        """The mean of the elements."""
        return (self.a + self.b) / 2 if self.distribution == "uniform" else self.a

    def stream(self) -> list[int]:
        """Returns the key of the stream and the two words of its counter, as int64."""
        # A layer may be exported or built within a graph.
        with tf.init_scope():
            # Keras folds the seed in the same way, so that the rows equal the draw of one process.
            folded = tf.cast(tf.math.floormod(tf.constant([self.seed, 0], tf.int64), tf.int32.max - 1), tf.int32)
            key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=folded)
            return [int(word) for word in tf.bitcast(tf.concat([key, counter], 0), tf.int64).numpy()]

    def attributes(self) -> dict[str, Any]:
        """Returns the attributes of the op that makes the table."""
        # A constant has no stream; the op takes none as an empty list.
        drawn = {} if self.distribution == "constant" else {"first_stream": self.stream()}
        return {"first": self.distribution, "first_a": self.a, "first_b": self.b, **drawn}


@dataclasses.dataclass(frozen=True)
class Growth:
    """How a table grows.

    Args:
        admission: which ids get a row; None for all.
        eviction: which rows are evicted; None for none.
        max_rows: the largest number of rows over all servers; None for no limit.
        max_bytes: the most bytes over all servers, with slots, index and counts; None for no limit.
        expected_rows: the number of rows that plans assume; None for `max_rows`, or else about a million.
        embeddings_dtype: the type in which servers keep the rows; None for that of the strategy.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    admission: Admission | None = None
    eviction: Eviction | None = None
    max_rows: int | None = None
    max_bytes: int | None = None
    expected_rows: int | None = None
    embeddings_dtype: str | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ("max_rows", "max_bytes", "expected_rows"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_integer(name, value, at_least=1))
        if self.embeddings_dtype is not None:
            check_choice("embeddings_dtype", self.embeddings_dtype, STORED_DTYPES)
        object.__setattr__(self, "admission", check_admission(self.admission))
        # The rule of eviction is checked last, because it depends on the budget.
        has_budget = self.max_rows is not None or self.max_bytes is not None
        object.__setattr__(self, "eviction", check_eviction(self.eviction, has_budget))

    def planned_rows(self, output_dim: int) -> int:
        """Returns the number of rows that a plan assumes, at least 1.

        Args:
            output_dim: the width of a row, in numbers.
        """
        if self.expected_rows is not None:
            return self.expected_rows
        rows = self.max_rows or EXPECTED_ROWS
        if self.max_bytes is None:
            return rows
        # Slots take their part of the budget, too, so there will be fewer rows than that.
        return max(1, min(rows, self.max_bytes // (_FLOAT_BYTES * output_dim + GROWING_ROW_BYTES)))

    def attributes(self, shards: int) -> dict[str, Any]:
        """Returns the attributes of the op that makes a shard.

        Args:
            shards: the number of shards. Each gets an equal part of the budget, because a hash spreads the ids evenly.

        Raises:
            ConfigError: `max_rows` or `max_bytes` is too little for so many shards.
        """
        if self.max_rows is not None and self.max_rows < shards:
            raise ConfigError(f"`max_rows` must be at least 1 for each shard, of {shards}. Received: {self.max_rows}.")
        assert self.admission is not None
        if self.max_bytes is not None:
            filter_bytes = (
                3 * getattr(self.admission, "filter_ids", 0) if getattr(self.admission, "filter_ids", None) else 0
            )
            least = shards * LEAST_GROWING_BYTES + filter_bytes
            if self.max_bytes < least:
                raise ConfigError(
                    f"`max_bytes` must be at least {least:,}: 1 MiB for each shard, of {shards}, and 3 bytes for "
                    f"each of the `filter_ids` of the admission. Received: {self.max_bytes:,}."
                )
        return {
            **self.admission.attributes(shards),
            **({} if self.eviction is None else self.eviction.attributes()),
            # Rounded down, so that all servers together keep the budget. Example: 10 rows on 4 servers are 2 each.
            "max_rows": (self.max_rows or 0) // shards,
            "max_bytes": (self.max_bytes or 0) // shards,
        }


def first_value_of(initial: "InitialValue", name: str) -> FirstValue:
    """Returns how rows begin.

    Raises:
        ConfigError: the initializer cannot draw the row of an id by itself.
    """
    if initial.first is not None:
        return initial.first
    if initial.constant is not None:
        return FirstValue("constant", initial.constant)
    raise ConfigError(
        f"the initializer of table {name!r} must draw the row of any id by itself. Received: one that cannot. Valid: "
        "RandomUniform, RandomNormal, TruncatedNormal, Zeros, Ones, Constant."
    )
