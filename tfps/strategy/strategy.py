"""`ParameterServerStrategy`: the strategy whose scope a program puts around unchanged Keras code.

Threading: the chief's main thread creates and uses it, like every `tf.distribute.Strategy`. Ownership: it ends its
cluster and its threads (see `tfps.cluster.connection`). Cost: the first embedded cluster of a program takes about as
long as an import of TensorFlow, in other processes. Each later cluster takes a fraction of a second.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import tensorflow as tf

from tfps import env, jobs
from tfps.cluster import devices
from tfps.cluster.cards import count_cards
from tfps.cluster.connection import reconnect_tensorflow
from tfps.cluster.environments.find import find_task
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import from_environment
from tfps.embedding.table import Table
from tfps.embedding.wire import FLOAT32
from tfps.errors import ConfigError
from tfps.inputs.paths import current_folder
from tfps.inputs.worker_input import WorkerInput
from tfps.monitoring.metrics_port import check_settings
from tfps.monitoring.record import JobRecord
from tfps.ops import library
from tfps.placement.advice import default_exchange_every
from tfps.placement.model import Plan
from tfps.placement.small_tables import DENSE_TABLES_BYTES
from tfps.placement.spec import TableDtypes, VariableSpec
from tfps.runtime.gate import Gate
from tfps.runtime.losses import Losses
from tfps.runtime.pool import WorkerPool
from tfps.runtime.recovery import Restorer
from tfps.runtime.rejoining import Rejoining
from tfps.runtime.remote_variables import RemoteVariables
from tfps.runtime.stop_signals import StopSignals
from tfps.strategy.arguments import ALLREDUCE, COLLECTIVES_END, MAX_STALENESS, Arguments
from tfps.strategy.coordinator import Coordinator, adopt
from tfps.strategy.creation import Recipe
from tfps.strategy.extended import Extended, cross_replica_mode
from tfps.strategy.monitor import Monitor
from tfps.strategy.pools import Pools
from tfps.strategy.start import make_resolver, start
from tfps.strategy.step_devices import choose_step_devices, leave_cards_to_workers
from tfps.strategy.variable_factory import VariableFactory
from tfps.strategy.variables import DenseVariable, SumVariable


class ParameterServerStrategy(tf.distribute.ParameterServerStrategy):
    """Trains Keras models whose variables live on parameter servers.

    The cluster: if TF_CONFIG is set, the strategy uses the cluster that it describes. There, the constructor of a
    `worker` or `ps` task serves until the chief has finished and then ends the process with status 0, and the `chief`
    continues with the program. If TF_CONFIG is not set, the strategy uses `cluster`; else, as one of several tasks of
    `mpirun` or `srun`, the cluster of these tasks; else it starts one server and two workers on this machine. An
    embedded cluster ends at `close`, at the end of the `with` block, when the program drops the strategy and everything
    made under it, or at the latest with the process.

    A program has one strategy at a time, because TensorFlow can be connected to only one cluster. A new strategy ends
    the earlier one: models made under the earlier one then raise `ClusterError`.

    Args:
        cluster: a `tfps.LocalCluster`; or a `tf.distribute.cluster_resolver.ClusterResolver`, as TensorFlow's strategy
            takes it, for servers that are running. Must be None, or agree with it, if TF_CONFIG is set.
        variable_partitioner: a function that splits tables: one of `tfps.placement.partitioners` or of
            `tf.distribute.experimental.partitioners`. None to spread large tables over all servers.
        plan: a `tfps.placement` plan to follow; None to place variables as they are made.
        dense_exchange_every: the number of steps that a worker makes in one closure, between two exchanges of dense
            variables. 1 gives the freshest values and costs most. The default is 32 divided by the number of workers,
            which bounds the steps that all workers make between two exchanges. It is smaller if an epoch has few
            batches, the chief reads the input, the model was trained for few steps, the optimizer has a momentum, or
            a layer is recurrent.
            `compile(steps_per_execution=)` overrides it.
        overlap_dense_exchange: whether dense variables cross during the steps instead of between them. A worker then
            sees the updates of other workers up to twice as late, and its own updates as before. It helps workers that
            are far from their servers. Only asynchronous training supports it.
        prefetch_lookups: whether a worker requests the rows of its next batch while it computes the current one. These
            rows miss the update of the current step, and the updates that other workers make meanwhile. Prefetching
            hides the time of the request and the answer. On one machine it is 4 % faster; with four workers it costs
            0.001 of AUC.
        closure_timeout_s: the number of seconds after which a closure counts as hung.
        dense_tables_bytes: the bytes of tables that a model may have as dense variables. The tables that a model
            makes first, up to this size in all, are then updated whole by Keras's own optimizer, so one worker gives
            what one process gives, with every optimizer. They cross with the other dense variables. 0 makes every
            table a table. Under a `plan` the plan decides.
        repeated_ids: how the optimizer of a larger table sees an id that repeats in a batch. "sum" sums the gradients
            of the id first, so Adam, Adagrad, RMSprop and others see the square of the sum. "each" gives them the sum
            of the squares, as Keras does in one process, and sends a second row for each such id.
        dense: how workers share what they do to dense variables. "exchange" adds the changes of each worker on the
            servers, every few steps. "allreduce" keeps equal copies on all workers: in each step they take the mean of
            their gradients, over all examples, and make the same update, as one process with the joined batch does.
            Tables stay asynchronous. Every table is then a table, whatever `dense_tables_bytes` says, a worker that
            dies ends the run, and `Geo`, `Sync` and hand-written loops are refused.
        devices_per_worker: the number of cards (GPUs) of a worker that share each of its batches; None for all that
            every worker has, or its CPU where it has none. Without cards, the number of its logical CPU devices
            (`tfps.LocalCluster(worker_devices=)`). Their gradients are joined on the worker, which makes one request
            and one push for all of them, so the result is that of one device with the whole batch.
        on_nan: what a step does if one of its gradients is NaN or infinite. "ignore" applies it, as Keras does. "stop"
            raises `NotFiniteError`, which names the worker, the step, the layer and the rows, before the step is
            applied. "skip" leaves the update out, counts the step, and says so in the log of the worker. The last two
            cost one pass over the gradients.
        wire: how rows, gradients and deltas cross the network in training. "float32" sends them as they are.
            "bfloat16" takes 2 bytes an element instead of 4, and "int8" takes 1, and 2 for the scale of each row; ids
            then take as many bytes as they need. Tables and optimizers keep all bits. What rounding takes from a push
            is zero in the mean, or is added to a later push. It helps where the network is the limit, and costs CPU
            time. `evaluate`, `predict` and all reads and writes of the chief are exact. Refused with
            `dense="allreduce"`.
        cache_rows: the number of rows, of each width of tables, that a worker keeps for its next steps in `fit`; 0 for
            none. It keeps the rows that its steps ask for most, and requests them again after `max_staleness` steps.
            That saves requests and answers; pushes stay as they are. Asynchronous training alone supports it, and
            tables that grow are not kept.
        max_staleness: the number of steps of a worker for which it uses a row that it keeps. Such a row lacks the
            updates that this worker and others have made since. 0 keeps no rows.
        embeddings_dtype: the type in which servers keep the rows of tables. "bfloat16" takes half the memory and half
            the bytes of a lookup. Variables of Keras are float32 all the same, and so is every file. An update is made
            in float32 and rounded at random, so that small updates are right in the mean. Tables that are dense
            variables (`dense_tables_bytes`) stay float32.
        slots_dtype: the same for the optimizer's slots of these tables. Slots with one number a row stay float32.

    Raises:
        ConfigError: TF_CONFIG or an argument breaks a rule; nothing was started.
        ClusterError: a task did not start. The message has the tail of its log, and everything started is stopped.

    Example:
        >>> with tfps.ParameterServerStrategy() as strategy:  # doctest: +SKIP
        ...     with strategy.scope():
        ...         ids = keras.Input((), dtype="int64")
        ...         model = keras.Sequential([ids, keras.layers.Embedding(1_000_000, 16), keras.layers.Dense(1)])
    """

    run_in_step: Callable[..., Any] | None = None
    """Wraps a function for `run` so that it runs as a step. `tfps.training` sets this, because it implements steps."""

    def __init__(
        self,
        cluster: "LocalCluster | tf.distribute.cluster_resolver.ClusterResolver | None" = None,
        *,
        variable_partitioner: Callable[..., Any] | None = None,
        plan: Plan | None = None,
        dense_exchange_every: int | None = None,
        overlap_dense_exchange: bool = False,
        prefetch_lookups: bool = False,
        closure_timeout_s: float = 600.0,
        dense_tables_bytes: int = DENSE_TABLES_BYTES,
        repeated_ids: str = "sum",
        dense: str = "exchange",
        devices_per_worker: int | None = None,
        on_nan: str = "ignore",
        wire: str = FLOAT32,
        cache_rows: int = 0,
        max_staleness: int = MAX_STALENESS,
        embeddings_dtype: str = "float32",
        slots_dtype: str = "float32",
    ) -> None:
        arguments = Arguments(
            cluster=cluster,
            variable_partitioner=variable_partitioner,
            plan=plan,
            dense_exchange_every=dense_exchange_every,
            overlap_dense_exchange=overlap_dense_exchange,
            prefetch_lookups=prefetch_lookups,
            closure_timeout_s=closure_timeout_s,
            dense_tables_bytes=dense_tables_bytes,
            repeated_ids=repeated_ids,
            dense=dense,
            devices_per_worker=devices_per_worker,
            on_nan=on_nan,
            wire=wire,
            cache_rows=cache_rows,
            max_staleness=max_staleness,
            embeddings_dtype=embeddings_dtype,
            slots_dtype=slots_dtype,
        )
        # A cluster that is given needs no process manager: a task of SLURM may want servers of its own.
        config = find_task() if arguments.cluster is None else from_environment()
        arguments.check_against(config)
        if env.metrics_port() is not None:
            check_settings()
        # If the library was built for another TensorFlow, this raises a clear error. Otherwise the servers would fail
        # to start.
        library.load()
        cluster = config.cluster if config else arguments.cluster or LocalCluster()
        arguments.check_devices(cluster)
        if isinstance(cluster, LocalCluster) and count_cards():
            leave_cards_to_workers()
        # Only an embedded cluster belongs to the strategy.
        self.cluster = cluster if isinstance(cluster, LocalCluster) else None
        # Before the start, because the factory checks the partitioner and the plan.
        self.factory = VariableFactory(
            cluster.num_ps,
            arguments.variable_partitioner,
            arguments.plan,
            # Workers have gradients for different rows, which no sum over the workers can keep apart.
            0 if arguments.dense == ALLREDUCE else arguments.dense_tables_bytes,
            keep_repeats=arguments.repeated_ids == "each",
            stored=TableDtypes(arguments.embeddings_dtype, arguments.slots_dtype),
        )
        self.connection = start(cluster, config, self._join)
        try:
            # The devices of other machines are known only now.
            self.step_devices = choose_step_devices(arguments.devices_per_worker, self.num_workers)
            if arguments.dense == ALLREDUCE and len(self.step_devices) > 1:
                raise ConfigError(
                    '`devices_per_worker` must be 1 with dense="allreduce". '
                    f"Received: {arguments.devices_per_worker!r}, which is {len(self.step_devices)} devices a worker."
                )
        except BaseException:
            self.connection.end("its devices could not be chosen")
            raise
        # Nothing below this line can fail, so nothing below has to stop the cluster again.
        self.dense, self.on_nan, self.wire = arguments.dense, arguments.on_nan, arguments.wire
        self.record = JobRecord()
        needs_all = COLLECTIVES_END if self.dense == ALLREDUCE else ""
        self.losses = Losses(self.num_workers, self.connection.cluster, needs_all, self.record)
        self.restorer: Restorer | None = None
        self.stop_signals = StopSignals()
        self.gate = Gate()
        self._rejoining = Rejoining(
            self.losses, self.connection.cluster, self.gate, functools.partial(_forget, weakref.ref(self))
        )
        self.pools = Pools(self.connection, self.losses, self.gate, self.worker_devices, self.num_servers)
        self.remote_variables = RemoteVariables(self)
        # With equal copies no worker misses a step of another, so the number of workers does not matter.
        missing = 1 if self.dense == ALLREDUCE else self.num_workers
        self.dense_exchange_every = arguments.dense_exchange_every or default_exchange_every(missing)
        self.overlap_dense_exchange = arguments.overlap_dense_exchange
        self.prefetch_lookups = arguments.prefetch_lookups
        self.closure_timeout_s = arguments.closure_timeout_s
        self.cache_size = arguments.cache_size
        self.monitor = Monitor(self)
        self.connection.add_pool(self.monitor.close)
        # TensorFlow has created this object, and has no setting for its class.
        self._extended.__class__ = Extended

    # The cluster: its start and its end.

    def _join(self, spec: ClusterSpec) -> None:
        """Runs TensorFlow's constructor, which connects to the cluster."""
        super().__init__(make_resolver(spec))

    def _connect_to_cluster(self, coordinator_name: str) -> None:
        """Connects to the cluster; TensorFlow's constructor calls this."""
        # TensorFlow can connect only once in a program. Later strategies of the program reconnect by our own code.
        tasks = self._cluster_resolver.cluster_spec().as_dict()
        if reconnect_tensorflow(ClusterSpec(worker=tuple(tasks[jobs.WORKER]), ps=tuple(tasks[jobs.PS]))):
            self._num_workers, self._num_ps = len(tasks[jobs.WORKER]), len(tasks[jobs.PS])
        else:
            super()._connect_to_cluster(coordinator_name)

    def close(self) -> None:
        """Ends the strategy and its embedded cluster. Models made under it raise `ClusterError` from now on."""
        self.connection.end("`close()` was called")

    def __enter__(self) -> "ParameterServerStrategy":
        """Returns the strategy. Models still need its `scope`."""
        self.connection.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the strategy and its embedded cluster."""
        self.connection.end("its `with` block ended")

    # Tasks and what runs on them.

    @property
    def repeated_ids(self) -> str:
        """How optimizers of tables see an id that repeats in a batch: "sum" or "each"."""
        return "each" if self.factory.keep_repeats else "sum"

    @property
    def could_send_less(self) -> bool:
        """Whether rows and deltas cross as they are, and another `wire` is possible."""
        return self.wire == FLOAT32 and self.dense != ALLREDUCE

    @property
    def _cluster_coordinator(self) -> Coordinator | None:
        """The coordinator of hand-written loops. TensorFlow creates it and assigns it to this attribute."""
        return self._coordinator

    @_cluster_coordinator.setter
    def _cluster_coordinator(self, coordinator: tf.distribute.coordinator.ClusterCoordinator | None) -> None:
        self._coordinator: Coordinator | None = None if coordinator is None else adopt(coordinator)

    @property
    def num_servers(self) -> int:
        """The number of parameter servers."""
        return int(self._num_ps)

    @property
    def num_workers(self) -> int:
        """The number of workers at the start of the cluster."""
        return int(self._num_workers)

    @property
    def worker_devices(self) -> list[str]:
        """The compute device of each worker."""
        return [devices.Worker(index).compute_device for index in range(self.num_workers)]

    def check(self) -> None:
        """Checks that the strategy has not ended, and that the tasks of an embedded cluster are alive.

        Raises:
            ClusterError: the strategy has ended.
            TaskDiedError: a parameter server or the last worker of an embedded cluster has died.
        """
        self.connection.check()
        self.losses.check()

    def host_of(self, shard: int) -> int:
        """Returns the worker that does the work of worker `shard`: that worker itself, unless it is lost.

        Takes lost workers back in that are up again. If none is left, it waits for one.

        Raises:
            ClusterTimeoutError: no worker is left, and none came back in time.
        """
        self._rejoining.look()
        return self.losses.host_of(shard)

    @property
    def pool(self) -> WorkerPool:
        """The pool that runs closures on the workers."""
        return self.pools.workers

    @property
    def server_pool(self) -> WorkerPool:
        """The pool that runs functions whose operations go to all servers."""
        return self.pools.servers

    def share_batches(self, dataset: tf.data.Dataset) -> WorkerInput:
        """Divides a dataset of batches between the workers: each batch goes to one of them."""
        self.connection.check()
        # Workers on this machine open the files that the chief would open. Other hosts may have other folders.
        folder = None if self.cluster is None else current_folder()
        return WorkerInput(dataset, self.worker_devices, owner=self, folder=folder)

    # Variables.

    def scope(self) -> contextlib.AbstractContextManager["ParameterServerStrategy"]:
        """Returns the context manager in which new variables go to the parameter servers.

        Raises:
            ClusterError: the strategy has ended.
        """
        self.connection.check()
        return super().scope()

    @contextlib.contextmanager
    def outside_steps(self) -> Iterator[None]:
        """Enters the scope from inside the trace of a step, where an optimizer may create its variables.

        A step is traced in replica mode, in which TensorFlow refuses to enter a scope.
        """
        with tf.init_scope(), cross_replica_mode(self), self.scope():
            yield

    @property
    def plan(self) -> Plan:
        """The placement of every variable made so far."""
        return self.factory.plan

    @property
    def dense_variables(self) -> list[DenseVariable]:
        """The dense variables made in the scope that are still in use."""
        return self.factory.dense_variables

    def slots_of(self, variable: object) -> contextlib.AbstractContextManager[None]:
        """Returns the context manager in which new variables are optimizer slots of `variable`.

        Each slot row goes to the server of its row.
        """
        return self.factory.slots_of(variable)

    def create(
        self, spec: VariableSpec, recipe: Recipe, *, summed: bool = False
    ) -> Table | DenseVariable | SumVariable:
        """Creates a variable at the placement that the plan gives; see `VariableFactory.create`."""
        self.connection.check()
        return self.factory.create(spec, recipe, summed=summed)


def _forget(strategy: "weakref.ref[ParameterServerStrategy]", worker: int) -> None:
    """Drops what the chief keeps of things on a worker that was started again."""
    alive = strategy()
    if alive is not None:
        device = alive.worker_devices[worker]
        alive.connection.forget(device)
        alive.remote_variables.remake(device)
