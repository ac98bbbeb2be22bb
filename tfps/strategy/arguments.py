"""What a user may give a strategy, checked before anything is started."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tfps import env
from tfps.checks import check_bool, check_callable, check_integer, check_number, check_type
from tfps.cluster.local import LocalCluster
from tfps.errors import ConfigError
from tfps.placement.model import Plan


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of `ParameterServerStrategy`, which documents them. Numbers of numpy come out as Python's.

    Raises:
        ConfigError: an argument, or an environment variable that a start would read, breaks its rule.
    """

    cluster: LocalCluster | None
    variable_partitioner: Callable[..., Any] | None
    plan: Plan | None
    dense_exchange_every: int | None
    overlap_dense_exchange: bool
    prefetch_lookups: bool
    closure_timeout_s: float

    def __post_init__(self) -> None:
        """Checks every argument."""
        valid = "None for one on this machine, or where TF_CONFIG says where the cluster is"
        # The dataclass is frozen for its users; a checked value takes the place of what was given.
        if self.cluster is not None:
            check_type("cluster", self.cluster, LocalCluster, "a tfps.LocalCluster", valid=valid)
        if self.variable_partitioner is not None:
            check_callable(
                "variable_partitioner", self.variable_partitioner, "a function of a shape and a dtype, or None"
            )
        if self.plan is not None:
            check_type("plan", self.plan, Plan, "a tfps.placement plan", valid="None to plan as variables are made")
        if self.dense_exchange_every is not None:
            check = check_integer(
                "dense_exchange_every", self.dense_exchange_every, at_least=1, valid="None for the default"
            )
            object.__setattr__(self, "dense_exchange_every", check)
        for name in ("overlap_dense_exchange", "prefetch_lookups"):
            object.__setattr__(self, name, check_bool(name, getattr(self, name)))
        object.__setattr__(
            self, "closure_timeout_s", check_number("closure_timeout_s", self.closure_timeout_s, above=0)
        )
        # A variable that breaks its rule would be found only after processes were started.
        for read in (env.start_timeout_s, env.join_timeout_s, env.chief_grace_s, env.ops_disabled):
            read()

    def check_against(self, tf_config: object | None) -> None:
        """Checks that the cluster is named once.

        Args:
            tf_config: what TF_CONFIG says; None where it is unset.

        Raises:
            ConfigError: both say where the cluster is.
        """
        if tf_config is not None and self.cluster is not None:
            raise ConfigError(
                "`cluster` must not be given where TF_CONFIG is set: TF_CONFIG already says where the cluster is. "
                f"Received: {self.cluster!r}."
            )
