"""`ParameterServerStrategy`: the scope around unchanged Keras code.

Threading: made and used by the chief's main thread, as every `tf.distribute.Strategy`. Ownership: it ends its cluster
and its threads (see `tfps.cluster.connection`). Cost: the first embedded cluster of a program about one import of
TensorFlow, in other processes; those after it a fraction of a second.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib  # how to leave a replica is not public

from tfps import jobs
from tfps.cluster import devices
from tfps.cluster.connection import Connection, reconnect_tensorflow
from tfps.cluster.faults import translate
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import from_environment
from tfps.embedding.table import Table
from tfps.inputs.worker_input import WorkerInput
from tfps.ops import library
from tfps.placement.advice import default_exchange_every
from tfps.placement.model import Plan
from tfps.placement.spec import VariableSpec
from tfps.runtime.losses import Losses
from tfps.runtime.pool import WorkerPool
from tfps.runtime.remote_variables import RemoteVariables
from tfps.strategy.arguments import Arguments
from tfps.strategy.coordinator import Coordinator
from tfps.strategy.creation import Recipe
from tfps.strategy.extended import Extended
from tfps.strategy.start import make_resolver, start
from tfps.strategy.variable_factory import VariableFactory
from tfps.strategy.variables import DenseVariable, SumVariable


class ParameterServerStrategy(tf.distribute.ParameterServerStrategy):
    """Trains Keras models whose variables live on parameter servers.

    Which cluster: with TF_CONFIG set, the one it describes (a `worker` or `ps` task serves until the chief is done and
    then ends the process with status 0; the `chief` goes on). Without it, `cluster`, or one server and two workers on
    this machine. Those end with the strategy: at `close`, at the end of its `with` block, when nobody holds it or
    anything made under it any more, at the latest with the process.

    A program has one strategy at a time, as TensorFlow can be connected to one cluster at a time. A newer one ends the
    one before it: what was made under that raises `ClusterError`.

    Args:
        cluster: a `tfps.LocalCluster`; not allowed together with TF_CONFIG.
        variable_partitioner: how tables are split: one of `tfps.placement.partitioners` or of
            `tf.distribute.experimental.partitioners`. Large tables go to all servers where None.
        plan: a `tfps.placement` plan to follow.
        dense_exchange_every: steps a worker makes between two exchanges of dense variables, in one closure; 1 gives the
            freshest values and costs most. By default 32 divided by the workers, so that what all workers do between
            two exchanges stays bounded, and less where an epoch has few batches, or the chief reads the input.
            `compile(steps_per_execution=)` goes first.
        overlap_dense_exchange: whether dense variables cross while steps are made, in place of between them. What other
            workers do is then seen up to twice as late, and nothing of one's own. Meant for workers far from their
            servers; asynchronous training alone knows it.
        prefetch_lookups: whether a worker asks for the rows of its next batch while it computes one. They then miss the
            update of that one step, and those that others make meanwhile. It hides the way to the servers and back, and
            is a twenty-fifth faster where there is none; with four workers it costs a thousandth of AUC.
        closure_timeout_s: seconds to wait for a closure before it counts as hung.

    Raises:
        ConfigError: TF_CONFIG or an argument breaks a rule; nothing was started.
        ClusterError: a task did not come up; it is named with the tail of its log. What was started is stopped.

    Example:
        >>> with tfps.ParameterServerStrategy() as strategy:  # doctest: +SKIP
        ...     with strategy.scope():
        ...         ids = keras.Input((), dtype="int64")
        ...         model = keras.Sequential([ids, keras.layers.Embedding(1_000_000, 16), keras.layers.Dense(1)])
    """

    run_in_step: Callable[..., Any] | None = None
    """Makes a function given to `run` a step; set by `tfps.training`, which knows how."""

    def __init__(
        self,
        cluster: LocalCluster | None = None,
        *,
        variable_partitioner: Callable[..., Any] | None = None,
        plan: Plan | None = None,
        dense_exchange_every: int | None = None,
        overlap_dense_exchange: bool = False,
        prefetch_lookups: bool = False,
        closure_timeout_s: float = 600.0,
    ) -> None:
        arguments = Arguments(
            cluster=cluster,
            variable_partitioner=variable_partitioner,
            plan=plan,
            dense_exchange_every=dense_exchange_every,
            overlap_dense_exchange=overlap_dense_exchange,
            prefetch_lookups=prefetch_lookups,
            closure_timeout_s=closure_timeout_s,
        )
        config = from_environment()
        arguments.check_against(config)
        # A library that was built for another TensorFlow is reported here, and not by servers that do not come up.
        library.load()
        if config is None:
            self.cluster: LocalCluster | None = arguments.cluster or LocalCluster()
            num_ps = self.cluster.num_ps
        else:
            self.cluster, num_ps = None, config.cluster.num_ps
        self.factory = VariableFactory(num_ps, arguments.variable_partitioner, arguments.plan)  # checks both of them
        self.connection = start(self.cluster, config, self._join)
        # From here on nothing can fail that would have to stop the cluster.
        self._losses = Losses(self.num_workers, self.connection.cluster)
        self._pool: WorkerPool | None = None
        self._server_pool: WorkerPool | None = None
        self.remote_variables = RemoteVariables(self)
        self.dense_exchange_every = arguments.dense_exchange_every or default_exchange_every(self.num_workers)
        self.overlap_dense_exchange = arguments.overlap_dense_exchange
        self.prefetch_lookups = arguments.prefetch_lookups
        self.closure_timeout_s = arguments.closure_timeout_s
        # TensorFlow makes it, and leaves no way to name another class.
        self._extended.__class__ = Extended

    # The cluster: its start and its end.

    def _join(self, spec: ClusterSpec) -> None:
        """Makes the TensorFlow half of the strategy, whose constructor connects to the cluster."""
        super().__init__(make_resolver(spec))

    def _connect_to_cluster(self, coordinator_name: str) -> None:
        """What TensorFlow's constructor calls to connect; only the first connection of a program is made its way."""
        tasks = self._cluster_resolver.cluster_spec().as_dict()
        if reconnect_tensorflow(ClusterSpec(worker=tuple(tasks[jobs.WORKER]), ps=tuple(tasks[jobs.PS]))):
            self._num_workers, self._num_ps = len(tasks[jobs.WORKER]), len(tasks[jobs.PS])
        else:
            super()._connect_to_cluster(coordinator_name)

    def close(self) -> None:
        """Ends the strategy and its embedded cluster; what was made under it raises `ClusterError` from now on."""
        self.connection.end("`close()` was called")

    def __enter__(self) -> "ParameterServerStrategy":
        """Itself. The variables of a model are made in its `scope`, as always."""
        self.connection.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the strategy."""
        self.connection.end("its `with` block ended")

    # Tasks and what runs on them.

    @property
    def _cluster_coordinator(self) -> Coordinator | None:
        """The coordinator of hand-written loops: TensorFlow makes it, and keeps it here."""
        return self._coordinator

    @_cluster_coordinator.setter
    def _cluster_coordinator(self, coordinator: Any) -> None:
        if coordinator is not None:
            coordinator.__class__ = Coordinator
        self._coordinator: Coordinator | None = coordinator

    @property
    def num_servers(self) -> int:
        """Parameter servers of the cluster."""
        return int(self._num_ps)

    @property
    def num_workers(self) -> int:
        """Workers of the cluster."""
        return int(self._num_workers)

    @property
    def worker_devices(self) -> list[str]:
        """The compute device of each worker."""
        return [devices.Worker(index).compute_device for index in range(self.num_workers)]

    def check(self) -> None:
        """Raises if the strategy has ended, a parameter server of the embedded cluster has died, or its last worker."""
        self.connection.check()
        self._losses.check()

    def host_of(self, shard: int) -> int:
        """The worker that does the work of worker `shard`: itself, unless it is gone."""
        return self._losses.host_of(shard)

    @property
    def pool(self) -> WorkerPool:
        """Runs closures on the workers."""
        self.connection.check()
        if self._pool is None:
            self._pool = self._make_pool(self.worker_devices, self._losses.translate)
        return self._pool

    @property
    def server_pool(self) -> WorkerPool:
        """Runs functions whose parts go to all servers; the chief leads them, as servers do not know each other."""
        self.connection.check()
        if self._server_pool is None:
            cluster = self.connection.cluster
            self._server_pool = self._make_pool([devices.CHIEF], lambda _, error: translate(error, cluster))
        return self._server_pool

    def _make_pool(self, leads: list[str], translate_error: Callable[[int, Exception], Exception]) -> WorkerPool:
        # Its threads hold what they are given: the strategy itself would never be collected.
        check = functools.partial(_check, weakref.ref(self.connection), self._losses)
        pool = WorkerPool(leads, translate_error, check)
        self.connection.add_pool(pool.close)
        return pool

    def share_batches(self, dataset: tf.data.Dataset) -> WorkerInput:
        """Divides a dataset of batches between the workers: each batch goes to one of them."""
        self.connection.check()
        return WorkerInput(dataset, self.worker_devices, owner=self)

    # Variables.

    def scope(self) -> contextlib.AbstractContextManager["ParameterServerStrategy"]:
        """Variables made inside live on the parameter servers.

        Raises:
            ClusterError: the strategy has ended.
        """
        self.connection.check()
        return super().scope()

    @contextlib.contextmanager
    def outside_steps(self) -> Iterator[None]:
        """The scope, also where a step is traced: an optimizer may build itself in one.

        That is in a replica, where TensorFlow lets nobody enter a scope.
        """
        with tf.init_scope():
            # TensorFlow keeps a stack of modes a thread; in the cross-replica mode a scope may be entered.
            distribute_lib._push_per_thread_mode(distribute_lib._CrossReplicaThreadMode(self))
            try:
                with self.scope():
                    yield
            finally:
                distribute_lib._pop_per_thread_mode()

    @property
    def plan(self) -> Plan:
        """Where every variable made so far lives."""
        return self.factory.plan

    @property
    def dense_variables(self) -> list[DenseVariable]:
        """The dense variables of all models made in the scope that are still in use."""
        return self.factory.dense_variables

    def slots_of(self, variable: object) -> contextlib.AbstractContextManager[None]:
        """Variables made inside are optimizer slots of `variable` and lie beside it, row for row."""
        return self.factory.slots_of(variable)

    def create(
        self, spec: VariableSpec, recipe: Recipe, *, summed: bool = False
    ) -> Table | DenseVariable | SumVariable:
        """Creates a variable where the plan says; see `VariableFactory.create`."""
        self.connection.check()
        return self.factory.create(spec, recipe, summed=summed)


def _check(connection: "weakref.ref[Connection]", losses: Losses) -> None:
    """`ParameterServerStrategy.check` for threads, which must not hold the connection."""
    held = connection()
    if held is not None:
        held.check()
    losses.check()
