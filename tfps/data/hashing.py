"""`Hash`: a column of strings that becomes a column of hash buckets. No TensorFlow."""

import dataclasses

from tfps.checks import check_integer, check_type
from tfps.errors import ConfigError

_MOST_BUCKETS = 2**63 - 1
"""A bucket is an int64."""


@dataclasses.dataclass(frozen=True)
class Hash:
    """A column of `tfps.data.files` whose strings become buckets, int64, as `tf.strings.to_hash_bucket_fast` has them.

    Args:
        buckets: the number of buckets, at least 1.
        prefix: stands before each string when it is hashed. With another one for each column, equal strings of
            two columns get different buckets of one table.
        empty: the string that an empty cell counts as.

    Raises:
        ConfigError: an argument breaks its rule.

    Example:
        >>> import tfps
        >>> tfps.data.Hash(1_000_000, prefix="city=")
        Hash(buckets=1000000, prefix='city=', empty='')
    """

    buckets: int
    prefix: str = ""
    empty: str = ""

    def __post_init__(self) -> None:
        """Checks the fields."""
        if check_integer("buckets", self.buckets, at_least=1) > _MOST_BUCKETS:
            raise ConfigError(f"`buckets` must be at most {_MOST_BUCKETS}. Received: {self.buckets}.")
        check_type("prefix", self.prefix, str, "a string")
        check_type("empty", self.empty, str, "a string")
