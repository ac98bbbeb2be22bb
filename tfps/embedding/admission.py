"""When an id of a table that grows gets a row: the rules of `tfps.layers.DynamicEmbedding(admission=...)`.

An update is one step of one worker that has a gradient for the id, however often the id is in its batch; in GEO mode it
is one window. A row is made by an update, never by a lookup, so `predict` and `evaluate` make none.
"""

import abc
import dataclasses
from typing import Any

import tensorflow as tf

from tfps.checks import check_choice, check_integer, check_number, check_type
from tfps.errors import ConfigError

READS = ("mean", "first")
"""What an id without a row may read: the mean of first values, or its own first value."""
_MOST_FILTERED = 15
"""The largest count of the filter, which has 4 bits for it."""


class Admission(abc.ABC):
    """A rule that says which ids get a row.

    Subclass `Filter` for a rule of your own.
    """

    @property
    def reserved_bytes(self) -> int:
        """The bytes that the rule takes whatever the number of rows."""
        return 0

    @abc.abstractmethod
    def attributes(self, shards: int) -> dict[str, Any]:
        """Returns the attributes of the op that makes the table.

        Args:
            shards: the number of shards over which the ids are spread.
        """


@dataclasses.dataclass(frozen=True)
class Always(Admission):
    """Each id gets a row with its first update."""

    def attributes(self, shards: int) -> dict[str, Any]:
        """See `Admission`."""
        # What is not stored yet reads its first value, as if the row were there.
        return {"admission": "always", "reads_first_value": True}


@dataclasses.dataclass(frozen=True)
class Count(Admission):
    """An id gets a row at its n-th update; the gradients before are dropped, and counted.

    Args:
        n: the number of updates, at least 1; at most 15 with `filter_ids`.
        filter_ids: None to count exactly, in about 16 bytes for each id that waits; or the number of ids that are
            counted at a time, in at most 3 bytes each. Beyond that number the oldest half is forgotten. About 1 id in
            80 shares its count with another one, and may then be admitted early.
        reads: what an id without a row reads: "mean", the mean of first values; or "first", its own first value.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    n: int
    filter_ids: int | None = None
    reads: str = "mean"

    def __post_init__(self) -> None:
        """Checks the fields."""
        # The class is frozen; an integer of numpy becomes one of Python, so that a layer's config is JSON.
        object.__setattr__(self, "n", check_integer("n", self.n, at_least=1))
        if self.filter_ids is not None and self.n > _MOST_FILTERED:
            raise ConfigError(f"`n` must be at most {_MOST_FILTERED} with `filter_ids`. Received: {self.n}.")
        if self.filter_ids is not None:
            object.__setattr__(self, "filter_ids", check_integer("filter_ids", self.filter_ids, at_least=1024))
        check_choice("reads", self.reads, READS)

    @property
    def reserved_bytes(self) -> int:
        """See `Admission`."""
        return 3 * (self.filter_ids or 0)

    def attributes(self, shards: int) -> dict[str, Any]:
        """See `Admission`."""
        counted = {"admission": "count", "admission_count": self.n, "reads_first_value": self.reads == "first"}
        if self.filter_ids is None:
            return counted
        # Rounded up: 10 ids on 4 servers are a filter of 3 ids on each.
        return {**counted, "admission": "filter", "admission_keys": -(-self.filter_ids // shards)}


@dataclasses.dataclass(frozen=True)
class Probability(Admission):
    """Each update of an id that has no row gives it one with probability p.

    Args:
        p: above 0, at most 1. An id that is seen n times has a row with probability 1 - (1 - p) ** n.
        reads: as for `Count`.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    p: float
    reads: str = "mean"

    def __post_init__(self) -> None:
        """Checks the fields."""
        object.__setattr__(self, "p", check_number("p", self.p, above=0, at_most=1))
        check_choice("reads", self.reads, READS)

    def attributes(self, shards: int) -> dict[str, Any]:
        """See `Admission`."""
        first = self.reads == "first"
        return {"admission": "probability", "admission_probability": self.p, "reads_first_value": first}


class Filter(Admission):
    """The base of a rule of your own, which decides by the id alone.

    The worker calls `admits` in the graph of a step. Ids that it does not admit are not sent to the servers: they read
    the mean of first values, and never get a row. For example, a list of ids that a batch job has found worth a row:

        class Listed(tfps.admission.Filter):
            def __init__(self, ids):
                self.ids = tf.constant(sorted(ids), tf.int64)

            def admits(self, ids):
                places = tf.minimum(tf.searchsorted(self.ids, ids), tf.size(self.ids) - 1)
                return tf.gather(self.ids, places) == ids

    Args:
        then: a further rule for the ids that `admits` lets through; None for `Always()`.
    """

    # A class attribute, so that a subclass needs no call of a base constructor.
    then: Admission | None = None

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the rule again, for saved models. A rule with arguments overrides it.

        The class must be known to Keras: `@keras.saving.register_keras_serializable()`.
        """
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Filter":
        """Makes the rule again."""
        return cls(**config)

    @abc.abstractmethod
    def admits(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns which ids may have a row, bool [m], for ids int64 [m]."""

    def attributes(self, shards: int) -> dict[str, Any]:
        """See `Admission`."""
        # The servers do not know this rule: the worker has left out the ids that it does not admit.
        return (self.then or Always()).attributes(shards)


def check_admission(admission: object) -> Admission:
    """Returns the rule, `Always()` for None.

    Raises:
        ConfigError: it is no rule.
    """
    rule = Always() if admission is None else admission
    return check_type("admission", rule, Admission, "a rule of tfps.admission", valid="None for a row for each id")
