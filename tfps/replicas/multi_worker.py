"""What `MultiWorkerMirroredStrategy` needs beside TensorFlow's own: checks, logical CPU devices, one seed for all."""

import contextlib
import random
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy  # the extended class is not public
from tensorflow.python.eager import context  # whether a seed is set is not public

from tfps import env, jobs
from tfps.cluster.doors.listen_host import choose_own_address
from tfps.cluster.doors.listening import start_listening
from tfps.cluster.endpoints import split_address
from tfps.cluster.tf_config import parse_cluster_of_workers
from tfps.cluster.tls.secure import refuse_without_tunnel
from tfps.errors import ClusterError, ConfigError
from tfps.replicas import messages

if TYPE_CHECKING:
    from tfps.replicas.strategies import MultiWorkerMirroredStrategy


class Extended(collective_all_reduce_strategy.CollectiveAllReduceExtended):
    """Uses every logical CPU device of a worker without cards, where TensorFlow uses one."""

    def _initialize_local_devices(self, cluster_resolver: Any, worker_device: str) -> tuple[tuple[str, ...], str]:
        devices, kind = super()._initialize_local_devices(cluster_resolver, worker_device)
        if kind != "CPU":
            return devices, kind
        own = tf.DeviceSpec.from_string(worker_device)
        specs = [tf.DeviceSpec.from_string(device.name) for device in tf.config.list_logical_devices("CPU")]
        # Without a cluster the name of the worker is empty, and all devices are its own.
        count = len([spec for spec in specs if not worker_device or (spec.job, spec.task) == (own.job, own.task)])
        return tuple(f"{worker_device}/device:CPU:{index}" for index in range(max(1, count))), kind


def make_extended(strategy: "MultiWorkerMirroredStrategy", cluster_resolver: Any, options: Any) -> Extended:
    """Connects to the other workers."""
    options = options or tf.distribute.experimental.CommunicationOptions()
    resolver = cluster_resolver or tf.distribute.cluster_resolver.TFConfigClusterResolver()
    made: list[Extended] = []

    def connect() -> int:
        made.append(Extended(strategy, cluster_resolver=resolver, communication_options=options))
        return port

    cluster = resolver.cluster_spec()
    if not cluster.as_dict():
        return Extended(strategy, cluster_resolver=resolver, communication_options=options)
    refuse_without_tunnel("MultiWorkerMirroredStrategy")
    address = cluster.task_address(resolver.task_type, resolver.task_id)
    everyone = [one for job in cluster.jobs for one in cluster.job_tasks(job)]
    listen = choose_own_address(f"`cluster.{resolver.task_type}[{resolver.task_id}]`", address, everyone)
    host, port = split_address(listen)
    start_listening(f"{resolver.task_type} {resolver.task_id}", host, connect)
    return made[0]


def check_cluster(cluster_resolver: Any) -> None:
    """Refuses a cluster that is not one of workers.

    Raises:
        ConfigError: TF_CONFIG breaks a rule, or names servers, for which there is nothing to hold.
    """
    if cluster_resolver is not None:
        if not isinstance(cluster_resolver, tf.distribute.cluster_resolver.ClusterResolver):
            raise ConfigError(
                "`cluster_resolver` must be a tf.distribute.cluster_resolver.ClusterResolver, or None for TF_CONFIG. "
                f"Received: {cluster_resolver!r}."
            )
        tasks = cluster_resolver.cluster_spec().as_dict()
    else:
        tasks = tasks_of_environment()
    if tasks.get(jobs.PS):
        raise ConfigError(
            "TF_CONFIG must have no `ps` for MultiWorkerMirroredStrategy, whose workers hold the whole model. "
            f"Received: {len(tasks[jobs.PS])} ps. Valid: workers alone, or tfps.ParameterServerStrategy."
        )


def tasks_of_environment() -> dict[str, list[str]]:
    """Returns the jobs of TF_CONFIG and their addresses; none if TF_CONFIG is not set."""
    text = env.tf_config()
    if text is None:
        return {}
    return parse_cluster_of_workers(text)


def agree_on_seed(strategy: "MultiWorkerMirroredStrategy") -> None:
    """Gives the workers one seed of TensorFlow's operations, unless the program has set one.

    Each worker shuffles the whole input and then takes its part. With different orders, examples would come twice or
    never.
    """
    if context.global_seed() is not None or not has_peers(strategy):
        return
    drawn = random.SystemRandom().randrange(1, 1 << 30)
    tf.random.set_seed(value_of_chief(strategy, drawn))


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Translates TensorFlow's errors of a worker that has ended, which may come from any operation on all workers.

    Raises:
        ClusterError: a worker has ended or is out of reach.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, tf.errors.UnavailableError) and "Collective ops is aborted" not in str(error):
            raise
        message = f"a worker of the strategy has ended or is out of reach. TensorFlow says: {error}"
        raise ClusterError(message) from None


def has_peers(strategy: "MultiWorkerMirroredStrategy") -> bool:
    """Whether the strategy has more than one process."""
    return bool(strategy.extended._in_multi_worker_mode()) and strategy.extended._num_workers > 1


def is_chief(strategy: "MultiWorkerMirroredStrategy") -> bool:
    """Whether this process is the one that writes files."""
    return bool(strategy.extended._is_chief)


def sum_over_hosts(strategy: "MultiWorkerMirroredStrategy", value: int) -> int:
    """Returns the sum of a number over the processes. All call it; it returns when all have."""
    total = _SUMS.get(strategy)
    if total is None:
        # Kept, because each trace of a function would have operations of its own.
        total = _SUMS[strategy] = _make_sum(len(strategy.extended.worker_devices))
    results = total(strategy, tf.constant(value, tf.int64))
    return int(strategy.experimental_local_results(results)[0])


_SUMS: "weakref.WeakKeyDictionary[tf.distribute.Strategy, Callable[..., Any]]" = weakref.WeakKeyDictionary()
"""The function of each strategy that adds a number over its processes."""


def _make_sum(devices: int) -> Callable[..., Any]:
    def add(number: tf.Tensor) -> tf.Tensor:
        # Of the replicas of a process the first one counts.
        own = tf.where(tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group % devices, 0), number, 0)
        return messages.all_sum([own])[0]

    @tf.function(autograph=False)
    def total(strategy: tf.distribute.Strategy, number: tf.Tensor) -> Any:
        return strategy.run(tf.autograph.experimental.do_not_convert(add), args=(number,))

    return total


def value_of_chief(strategy: "MultiWorkerMirroredStrategy", value: int) -> int:
    """Returns the number that the chief has. All call it."""
    return sum_over_hosts(strategy, value if is_chief(strategy) else 0)
