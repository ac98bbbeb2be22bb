"""`ParameterServerStrategy`: the scope around unchanged Keras code.

Threading: made and used by the chief's main thread, as every `tf.distribute.Strategy`. Ownership: it starts the
embedded cluster where there is no TF_CONFIG; that ends with `close` or with the process. Cost: about one import of
TensorFlow, in other processes.
"""

import contextlib
import dataclasses
import logging
import numbers
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import (
    distribute_lib,  # how to leave a replica is not public
    parameter_server_strategy_v2,  # the extended class is not public
)

from tfps import jobs, step
from tfps.cluster import devices
from tfps.cluster.faults import translate, translated
from tfps.cluster.local import LocalCluster
from tfps.cluster.reach import wait_for_servers
from tfps.cluster.server import serve
from tfps.cluster.tf_config import TaskConfig, from_environment
from tfps.embedding.table import Table
from tfps.errors import ConfigError
from tfps.inputs.worker_input import Iterators, WorkerInput
from tfps.ops import library
from tfps.placement.advice import default_exchange_every
from tfps.placement.model import Plan
from tfps.placement.planner import IncrementalPlacer
from tfps.placement.spec import VariableSpec
from tfps.runtime.losses import Losses
from tfps.runtime.pool import WorkerPool
from tfps.strategy.creation import Recipe, create_dense, create_sum, create_table
from tfps.strategy.variables import DenseVariable
from tfps.types import is_integer

_LOG = logging.getLogger("tfps")


class ParameterServerStrategy(tf.distribute.ParameterServerStrategy):
    """Trains Keras models whose variables live on parameter servers.

    Which cluster: with TF_CONFIG set, the one it describes (a `worker` or `ps` task serves until the chief is done and
    then ends the process with status 0; the `chief` goes on). Without it, `cluster`, or one server and two workers on
    this machine.

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
        ClusterError: a task did not come up; it is named with the tail of its log.

    Example:
        >>> strategy = tfps.ParameterServerStrategy()  # doctest: +SKIP
        >>> with strategy.scope():  # doctest: +SKIP
        ...     ids = keras.Input((), dtype="int64")
        ...     model = keras.Sequential([ids, keras.layers.Embedding(1_000_000, 16), keras.layers.Dense(1)])
    """

    run_in_step: Callable[..., Any] | None = None
    """Makes a function given to `run` a step; set by `tfps.training`, which knows how."""

    def __init__(
        self,
        cluster: LocalCluster | None = None,
        *,
        variable_partitioner: Any = None,
        plan: Plan | None = None,
        dense_exchange_every: int | None = None,
        overlap_dense_exchange: bool = False,
        prefetch_lookups: bool = False,
        closure_timeout_s: float = 600.0,
    ) -> None:
        if not (dense_exchange_every is None or (is_integer(dense_exchange_every) and dense_exchange_every >= 1)):
            raise ConfigError(
                "`dense_exchange_every` must be an integer of at least 1, or None for the default. "
                f"Received: {dense_exchange_every!r}."
            )
        _check_positive("closure_timeout_s", closure_timeout_s)
        config = from_environment()
        if config is not None and cluster is not None:
            raise ConfigError(
                "`cluster` must not be given where TF_CONFIG is set: TF_CONFIG already says where the cluster is."
            )
        if not isinstance(cluster, LocalCluster | None):
            raise ConfigError(
                "`cluster` must be a tfps.LocalCluster, or None for the default or where TF_CONFIG says where the "
                f"cluster is. Received: {cluster!r}."
            )
        library.load()  # built for another TensorFlow: said here, and not by servers that do not come up
        self.cluster, num_ps = None, config.cluster.num_ps if config is not None else 0
        if config is None:
            self.cluster = cluster or LocalCluster()
            num_ps = self.cluster.num_ps
        self._placer = IncrementalPlacer(num_ps, variable_partitioner, plan=plan)  # checks both of them
        self._bookkeeping = self._placer if plan is None else IncrementalPlacer(num_ps)
        spec = self._start(config)
        self._faulty = self.cluster or spec
        with translated(self._faulty):
            super().__init__(_resolver(spec))
        self._losses = Losses(self.num_workers, self._faulty)
        self._slot_of: Any = None
        self._names: dict[str, int] = {}
        self._dense: list[weakref.ref[DenseVariable]] = []
        self.iterators = Iterators(self)
        self._pool: WorkerPool | None = None
        self._server_pool: WorkerPool | None = None
        self.dense_exchange_every = dense_exchange_every or default_exchange_every(self.num_workers)
        self.overlap_dense_exchange = bool(overlap_dense_exchange)
        self.prefetch_lookups = bool(prefetch_lookups)
        self.closure_timeout_s = closure_timeout_s
        self._extended.__class__ = _Extended  # TensorFlow makes it and leaves no way to name another class

    def _start(self, config: TaskConfig | None) -> Any:
        if config is None:
            assert self.cluster is not None
            self.cluster.start()
            return self.cluster.spec
        if config.task_type != jobs.CHIEF:
            serve(config)
        wait_for_servers(config.cluster)
        return config.cluster

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
        """One device a worker."""
        return [devices.Worker(index).compute_device for index in range(self.num_workers)]

    def check(self) -> None:
        """Raises `TaskDiedError` if a parameter server of the embedded cluster has ended, or its last worker."""
        self._losses.check()

    def host_of(self, shard: int) -> int:
        """The worker that does the work of worker `shard`: itself, unless it is gone."""
        return self._losses.host_of(shard)

    @property
    def pool(self) -> WorkerPool:
        """Runs closures on the workers."""
        if self._pool is None:
            self._pool = WorkerPool(self.worker_devices, self._losses.translate, self.check)
        return self._pool

    @property
    def server_pool(self) -> WorkerPool:
        """Runs functions whose parts go to all servers; the chief leads them, as servers do not know each other."""
        if self._server_pool is None:
            leads = [devices.CHIEF]
            self._server_pool = WorkerPool(leads, lambda _, error: translate(error, self._faulty), self.check)
        return self._server_pool

    def close(self) -> None:
        """Ends the embedded cluster; nothing made in the scope can be used after it.

        Without it the cluster ends with the process.
        """
        for pool in (self._pool, self._server_pool):
            if pool is not None:
                pool.close()
        if self.cluster is not None:
            self.cluster.stop()

    def share_batches(self, dataset: Any) -> WorkerInput:
        """Shares a dataset of batches between the workers: each batch goes to one of them."""
        return WorkerInput(dataset, self.worker_devices, owner=self)

    @property
    def plan(self) -> Plan:
        """Where every variable made so far lives."""
        return self._placer.plan

    @contextlib.contextmanager
    def outside_steps(self) -> Iterator[None]:
        """The scope, also where a step is traced: an optimizer may build itself in one.

        That is in a replica, where TensorFlow lets nobody enter a scope.
        """
        with tf.init_scope():
            distribute_lib._push_per_thread_mode(distribute_lib._CrossReplicaThreadMode(self))
            try:
                with self.scope():
                    yield
            finally:
                distribute_lib._pop_per_thread_mode()

    @contextlib.contextmanager
    def slots_of(self, variable: Any) -> Iterator[None]:
        """Variables made inside are optimizer slots of `variable` and lie beside it, row for row."""
        before, self._slot_of = self._slot_of, variable
        try:
            yield
        finally:
            self._slot_of = before

    def create(self, spec: VariableSpec, recipe: Recipe, *, summed: bool = False) -> Any:
        """Creates a variable where the plan says.

        Args:
            spec: the variable; a name that was used before gets a number.
            recipe: its first value.
            summed: whether it is the state of a metric, kept on the chief as a sum over the workers.

        Returns:
            A `Table`, a `DenseVariable` or a `SumVariable`.
        """
        if summed:
            return create_sum(spec, recipe)
        spec = dataclasses.replace(spec, name=self._unique(spec.name))
        beside = self._slot_of.placement if isinstance(self._slot_of, Table | DenseVariable) else None
        # A slot has the shape of its variable, or one number for each row of it.
        if beside is not None and spec.shape in (beside.spec.shape, (*beside.spec.shape[:1], 1)):
            spec = dataclasses.replace(spec, is_table=isinstance(self._slot_of, Table))
            placement = self._placer.place_like(spec, beside)
        else:
            placement = self._placer_of(spec, recipe).place(spec)
        if spec.is_table:
            return create_table(placement, recipe, spec.trainable)
        variable = create_dense(placement, recipe, spec.trainable)
        self._dense.append(weakref.ref(variable))
        return variable

    def _placer_of(self, spec: VariableSpec, recipe: Recipe) -> IncrementalPlacer:
        """A plan need not hold bookkeeping, such as a counter of an optimizer; where it does it is followed."""
        return self._bookkeeping if recipe.bookkeeping and not self._placer.plans(spec.name) else self._placer

    @property
    def dense_variables(self) -> list[DenseVariable]:
        """The dense variables of all models made in the scope that are still in use."""
        return [variable for variable in (reference() for reference in self._dense) if variable is not None]

    def place_plain(self, request: dict[str, Any]) -> int:
        """The server for a plain `tf.Variable`, from the arguments of its creator."""
        value, dtype = request.get("initial_value"), request.get("dtype")
        shape = request.get("shape")
        if shape is None and not callable(value) and value is not None:
            value = tf.convert_to_tensor(value, dtype)
            shape, dtype = value.shape, value.dtype
        known = shape is not None and tf.TensorShape(shape).is_fully_defined()
        size = tuple(tf.TensorShape(shape).as_list()) if known else ()
        spec = VariableSpec(
            self._unique(request.get("name") or "Variable"), size, tf.as_dtype(dtype or tf.float32).name
        )
        return self._placer.place(spec).servers[0]

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}:{count}" if count else name


class _Extended(parameter_server_strategy_v2.ParameterServerStrategyV2Extended):
    """Places plain `tf.Variable`s, made by custom loops and by legacy Keras, by load instead of by count."""

    def _call_for_each_replica(self, fn: Any, args: Any, kwargs: Any) -> Any:
        strategy = self._container_strategy()
        if strategy.run_in_step is not None and strategy.dense_variables and step.current() is None:
            fn = strategy.run_in_step(fn)
        return super()._call_for_each_replica(fn, args, kwargs)

    def _create_variable_round_robin(self, next_creator: Any, **kwargs: Any) -> Any:
        device = devices.server(self._container_strategy().place_plain(kwargs))
        with tf.compat.v1.colocate_with(None, ignore_existing=True), tf.device(device):
            return next_creator(**kwargs)


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not value > 0:
        raise ConfigError(f"`{name}` must be a number above 0. Received: {value!r}.")


def _resolver(spec: Any) -> Any:
    task = {"task_type": jobs.CHIEF, "task_id": 0} if spec.chief else {}
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec.resolver_spec(), rpc_layer="grpc", **task)
