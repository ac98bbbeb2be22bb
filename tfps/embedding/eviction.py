"""Which rows of a table that grows are evicted: the rules of `tfps.layers.DynamicEmbedding(eviction=...)`.

The servers evict in small slices while they apply updates. Rows that a step has just looked up, or that are pinned,
stay. A step of these rules is an update of the table: one step of one worker, one window in GEO mode, one step of all
workers in synchronous mode.
"""

import abc
import dataclasses
from typing import Any

from tfps.checks import check_integer, check_number, check_type
from tfps.errors import ConfigError

_MOST_STEPS = 1 << 53
_MOST_SECONDS = 1e10
"""Three hundred years: more is a mistake."""


class Eviction(abc.ABC):
    """A rule that says which rows are evicted."""

    needs_budget = False
    """Whether the rule only acts where a table has a budget: `max_rows` or `max_bytes`."""

    @abc.abstractmethod
    def attributes(self) -> dict[str, Any]:
        """Returns the attributes of the op that makes the table."""


@dataclasses.dataclass(frozen=True)
class Unseen(Eviction):
    """Evicts rows that no step has used for some time.

    Args:
        steps: the time in steps; None for `seconds`.
        seconds: the time in seconds; None for `steps`. One of the two must be given.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        # One of the two, as a checkpoint restores the age of a row in one measure.
        if (self.steps is None) == (self.seconds is None):
            raise ConfigError(
                "`steps` or `seconds` must be given, and not both. "
                f"Received: steps={self.steps!r}, seconds={self.seconds!r}."
            )
        if self.steps is not None:
            object.__setattr__(self, "steps", _check_steps("steps", self.steps))
        else:
            object.__setattr__(self, "seconds", check_number("seconds", self.seconds, above=0, at_most=_MOST_SECONDS))

    def attributes(self) -> dict[str, Any]:
        """See `Eviction`."""
        # 0 means "not by this" to the op.
        return {"eviction": "unseen", "eviction_steps": self.steps or 0, "eviction_seconds": self.seconds or 0.0}


@dataclasses.dataclass(frozen=True)
class LeastRecent(Eviction):
    """Evicts the rows that were used longest ago, where the table has reached its budget."""

    # Without a budget these two rules would never evict, which nobody asks for on purpose.
    needs_budget = True

    def attributes(self) -> dict[str, Any]:
        """See `Eviction`."""
        return {"eviction": "least_recent"}


@dataclasses.dataclass(frozen=True)
class LeastFrequent(Eviction):
    """Evicts the rows that had the fewest updates, where the table has reached its budget."""

    needs_budget = True

    def attributes(self) -> dict[str, Any]:
        """See `Eviction`."""
        return {"eviction": "least_frequent"}


@dataclasses.dataclass(frozen=True)
class SmallNorm(Eviction):
    """Evicts rows that have stayed small: whose L2 norm is below a limit although they are no longer new.

    Args:
        l2: the limit, above 0.
        after_steps: the number of steps for which a new row is kept in any case, at least 1.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    l2: float
    after_steps: int = 1000

    def __post_init__(self) -> None:
        """Checks the fields."""
        # No norm is below 0, so a limit of 0 would never evict.
        object.__setattr__(self, "l2", check_number("l2", self.l2, above=0))
        object.__setattr__(self, "after_steps", _check_steps("after_steps", self.after_steps))

    def attributes(self) -> dict[str, Any]:
        """See `Eviction`."""
        return {"eviction": "small_norm", "eviction_threshold": self.l2, "eviction_steps": self.after_steps}


@dataclasses.dataclass(frozen=True)
class Score(Eviction):
    """Evicts rows whose score is low: each show raises it, a click raises it more, and time lowers it.

    An update of a row is a show. Clicks, or anything else, are added by `DynamicEmbedding.add_scores(ids, amounts)`.

    Source: the accessor `CtrCommonAccessor` of Paddle's parameter server, whose score is
    `nonclk_coeff * (show - click) + click_coeff * click` with `show_click_decay_rate`.

    Args:
        threshold: a row with a lower score is evicted; above 0.
        every_steps: the number of steps after which every score is multiplied by `decay`, at least 1.
        decay: the factor, above 0 and at most 1.
        show: what an update adds, at least 0.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    threshold: float
    every_steps: int
    decay: float = 0.98
    show: float = 1.0

    def __post_init__(self) -> None:
        """Checks the fields."""
        object.__setattr__(self, "threshold", check_number("threshold", self.threshold, above=0))
        object.__setattr__(self, "every_steps", _check_steps("every_steps", self.every_steps))
        object.__setattr__(self, "decay", check_number("decay", self.decay, above=0, at_most=1))
        object.__setattr__(self, "show", check_number("show", self.show, at_least=0))

    def attributes(self) -> dict[str, Any]:
        """See `Eviction`."""
        return {
            "eviction": "score",
            "eviction_threshold": self.threshold,
            "eviction_steps": self.every_steps,
            "eviction_decay": self.decay,
            "eviction_gain": self.show,
        }


def check_eviction(eviction: object, has_budget: bool) -> Eviction | None:
    """Returns the rule.

    Raises:
        ConfigError: it is no rule, or it needs a budget and there is none.
    """
    if eviction is None:
        return None
    rule = check_type("eviction", eviction, Eviction, "a rule of tfps.eviction", valid="None to keep all rows")
    if rule.needs_budget and not has_budget:
        raise ConfigError(
            f"`eviction` {type(rule).__name__}() acts where a table has reached its budget. Received: no budget. "
            "Valid: with `max_rows` or `max_bytes`."
        )
    return rule


def _check_steps(name: str, value: object) -> int:
    """Returns a number of steps.

    Raises:
        ConfigError: it is no integer from 1 to 2**53.
    """
    steps = check_integer(name, value, at_least=1)
    if steps > _MOST_STEPS:
        raise ConfigError(f"`{name}` must be at most 2**53. Received: {steps}.")
    return steps
