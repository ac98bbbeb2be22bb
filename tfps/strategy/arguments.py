"""Checks the arguments of a strategy before anything is started."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps import env, jobs
from tfps.checks import check_bool, check_callable, check_choice, check_integer, check_number, check_type
from tfps.cluster.cards import count_cards, share_of_cards
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig
from tfps.embedding.row_cache import CacheSize
from tfps.embedding.wire import FLOAT32, WIRES
from tfps.errors import ConfigError
from tfps.ops import library
from tfps.placement.model import Plan
from tfps.placement.spec import STORED_DTYPES

REPEATED_IDS = ("sum", "each")
"""What a row rule may get of an id that repeats in a batch."""

ALLREDUCE = "allreduce"
DENSE = ("exchange", ALLREDUCE)
"""How workers share what they do to dense variables."""

COLLECTIVES_END = (
    'With dense="allreduce" the workers cannot continue without one of them, because TensorFlow\'s collectives end for '
    "good. Start again, from keras.callbacks.BackupAndRestore for example."
)
"""Why the workers of all-reduce mode cannot continue without one of them."""

MAX_STALENESS = 256
"""The steps for which a worker uses a row that it keeps, where it keeps rows."""

_MOST_CACHED = (1 << 31) - 1
"""The most of `cache_rows` and of `max_staleness`: an operation of a worker would refuse a larger one, but late."""

IGNORE, SKIP, STOP = "ignore", "skip", "stop"
ON_NAN = (IGNORE, SKIP, STOP)
"""What a step does with gradients that are not finite."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The checked arguments of `ParameterServerStrategy`, which documents them. Numbers of numpy become Python's.

    Raises:
        ConfigError: an argument breaks its rule, or an environment variable that the start will read breaks its rule.
    """

    cluster: LocalCluster | ClusterSpec | None
    variable_partitioner: Callable[..., Any] | None
    plan: Plan | None
    dense_exchange_every: int | None
    overlap_dense_exchange: bool
    prefetch_lookups: bool
    closure_timeout_s: float
    dense_tables_bytes: int
    repeated_ids: str
    dense: str
    devices_per_worker: int | None
    on_nan: str = "ignore"
    wire: str = FLOAT32
    cache_rows: int = 0
    max_staleness: int = MAX_STALENESS
    embeddings_dtype: str = "float32"
    slots_dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks every argument, and replaces it by the checked value."""
        valid = "None for a cluster on this machine or the cluster of TF_CONFIG"
        # A frozen dataclass refuses plain assignments, so the checked values are set by `object.__setattr__`.
        # The signature of TensorFlow's strategy has a resolver here.
        if isinstance(self.cluster, tf.distribute.cluster_resolver.ClusterResolver):
            object.__setattr__(self, "cluster", _resolve(self.cluster))
        elif self.cluster is not None:
            check_type("cluster", self.cluster, LocalCluster, "a tfps.LocalCluster or a ClusterResolver", valid=valid)
        if self.variable_partitioner is not None:
            check_callable(
                "variable_partitioner", self.variable_partitioner, "a function of a shape and a dtype, or None"
            )
        if self.plan is not None:
            check_type("plan", self.plan, Plan, "a tfps.placement plan", valid="None to plan as variables are made")
        if self.dense_exchange_every is not None:
            steps = check_integer(
                "dense_exchange_every", self.dense_exchange_every, at_least=1, valid="None for the default"
            )
            object.__setattr__(self, "dense_exchange_every", steps)
        for name in ("overlap_dense_exchange", "prefetch_lookups"):
            object.__setattr__(self, name, check_bool(name, getattr(self, name)))
        limit = check_integer("dense_tables_bytes", self.dense_tables_bytes, at_least=0, valid="0 for none")
        object.__setattr__(self, "dense_tables_bytes", limit)
        check_choice("repeated_ids", self.repeated_ids, REPEATED_IDS)
        check_choice("dense", self.dense, DENSE)
        check_choice("on_nan", self.on_nan, ON_NAN)
        for name in ("embeddings_dtype", "slots_dtype"):
            check_choice(name, getattr(self, name), STORED_DTYPES)
        if self.dense == ALLREDUCE and self.on_nan == SKIP:
            raise ConfigError(
                '`on_nan` must not be "skip" with dense="allreduce": a worker that left out an update alone would have '
                'other dense variables than the rest. Received: \'skip\'. Valid: "stop", "ignore".'
            )
        check_choice("wire", self.wire, WIRES)
        if self.dense == ALLREDUCE and self.wire != FLOAT32:
            raise ConfigError(
                '`wire` must be "float32" with dense="allreduce", whose workers must have the same bits of every dense '
                f"variable. Received: {self.wire!r}."
            )
        if self.dense == ALLREDUCE and self.overlap_dense_exchange:
            raise ConfigError(
                '`overlap_dense_exchange` must be False with dense="allreduce", which exchanges gradients in '
                "every step, and values only between closures. Received: True."
            )
        if self.devices_per_worker is not None:
            devices = check_integer(
                "devices_per_worker", self.devices_per_worker, at_least=1, valid="None for all cards of a worker"
            )
            object.__setattr__(self, "devices_per_worker", devices)
        object.__setattr__(
            self, "closure_timeout_s", check_number("closure_timeout_s", self.closure_timeout_s, above=0)
        )
        for name in ("cache_rows", "max_staleness"):
            number = check_integer(name, getattr(self, name), at_least=0, valid="0 to keep no rows")
            if number > _MOST_CACHED:
                raise ConfigError(f"`{name}` must be at most {_MOST_CACHED:_}. Received: {number}.")
            object.__setattr__(self, name, number)
        self._check_cache()
        # The start reads these variables only after it has started processes, so an error would come too late.
        for read in (env.refuse_unknown, env.start_timeout_s, env.join_timeout_s, env.chief_grace_s, env.ops_disabled):
            read()

    @property
    def cache_size(self) -> CacheSize | None:
        """How many rows a worker keeps, and for how long; None for no rows."""
        return CacheSize(self.cache_rows, self.max_staleness) if self.cache_rows and self.max_staleness else None

    def _check_cache(self) -> None:
        """Checks that rows can be kept, if they are to be."""
        if self.cache_size is None:
            return
        if self.dense == ALLREDUCE:
            raise ConfigError(
                '`cache_rows` must be 0 with dense="allreduce", whose workers train step by step together. '
                f'Received: {self.cache_rows}. Valid: 0, or dense="exchange".'
            )
        if not library.available():
            raise ConfigError(
                "`cache_rows` must be 0 without the C++ ops of tfps. "
                f"Received: {self.cache_rows}. Valid: 0; or build the ops, and leave TFPS_DISABLE_OPS unset."
            )

    def check_against(self, tf_config: TaskConfig | None) -> None:
        """Checks that not both TF_CONFIG and `cluster` describe the cluster, unless they are equal.

        Args:
            tf_config: the configuration from TF_CONFIG; None if it is unset.

        Raises:
            ConfigError: both describe the cluster.
        """
        if tf_config is None or self.cluster is None:
            return
        # A resolver may have read TF_CONFIG too.
        if not isinstance(self.cluster, ClusterSpec) or self.cluster.as_dict() != tf_config.cluster.as_dict():
            raise ConfigError(
                "`cluster` must be None if TF_CONFIG is set, because TF_CONFIG already describes the cluster. "
                f"Received: {self.cluster!r}."
            )

    def check_devices(self, cluster: LocalCluster | ClusterSpec) -> None:
        """Checks `devices_per_worker` against the devices of an embedded cluster, before it starts.

        Args:
            cluster: the cluster; what the workers of other machines have is known only once they run.

        Raises:
            ConfigError: workers of this machine will have fewer devices.
        """
        wanted, cards = self.devices_per_worker, count_cards()
        if wanted is None or not isinstance(cluster, LocalCluster):
            return
        most = len(share_of_cards(cluster.num_workers - 1, cluster.num_workers, cards)) or cluster.worker_devices
        if wanted > most:
            raise ConfigError(
                f"`devices_per_worker` must be at most {most}, because this machine has {cards} cards for "
                f"{cluster.num_workers} workers, and each has worker_devices={cluster.worker_devices}. "
                f"Received: {wanted}."
            )


def _resolve(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> ClusterSpec:
    """Returns the addresses that TensorFlow's description of a cluster has."""
    tasks = resolver.cluster_spec().as_dict()
    if not set(tasks) <= set(jobs.JOBS) or any(isinstance(addresses, dict) for addresses in tasks.values()):
        raise ConfigError(
            f"`cluster` must have the jobs {', '.join(jobs.JOBS)} alone, and a list of addresses for each. "
            f"Received: {tasks!r}."
        )
    if resolver.task_type not in (None, "", jobs.CHIEF) and not env.tf_config():
        raise ConfigError(
            "`cluster` must be the resolver of the chief, because its strategy connects to the servers. "
            f"Received: a resolver of task type {resolver.task_type!r}. Valid for other tasks: TF_CONFIG."
        )
    return ClusterSpec(**{job: tuple(tasks.get(job, ())) for job in jobs.JOBS})
