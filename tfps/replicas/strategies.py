"""`OneDeviceStrategy`, `MirroredStrategy` and `MultiWorkerMirroredStrategy`, for models that fit one device.

They are TensorFlow's strategies, and differ in what Keras does under them: rows of embeddings are updated row by row,
metrics are exact over replicas, and a replica counts by its examples (`tfps.keras.replicas`).

Threading: as for TensorFlow's strategies. A program may make several; only `MultiWorkerMirroredStrategy` connects to
other processes, and once in a program.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from tfps import env
from tfps.checks import check_choice, check_integer, check_type
from tfps.cluster import devices
from tfps.errors import ConfigError
from tfps.placement.small_tables import DENSE_TABLES_BYTES, SmallTables
from tfps.replicas import multi_worker
from tfps.strategy.arguments import REPEATED_IDS

_KEY_BASES = itertools.count(0, 100_000)


class Replicated:
    """What the strategies for models on one device have in common.

    Args:
        dense_tables_bytes: as for `tfps.ParameterServerStrategy`: the bytes of tables that a model may have as dense
            variables, which Keras's own optimizer updates whole.
        repeated_ids: as for `tfps.ParameterServerStrategy`: "sum" or "each".

    Attributes:
        small_tables: counts the tables that are dense variables.
    """

    if TYPE_CHECKING:
        # TensorFlow's strategies, of which the classes below are, have it.
        num_replicas_in_sync: int

    def _set_up(self, dense_tables_bytes: int, repeated_ids: str) -> None:
        """Keeps the checked arguments. Called before TensorFlow's constructor, which may connect to other hosts."""
        limit = check_integer("dense_tables_bytes", dense_tables_bytes, at_least=0, valid="0 for none")
        check_choice("repeated_ids", repeated_ids, REPEATED_IDS)
        env.refuse_unknown()
        env.ops_disabled()
        # The collective operations of a process are known by numbers, which begin here. TensorFlow begins each strategy
        # with the same one, so the second strategy of a program would meet the first one's operations.
        self._collective_key_base = next(_KEY_BASES)
        self.small_tables = SmallTables(limit)
        self.repeated_ids = repeated_ids


class OneDeviceStrategy(Replicated, tf.distribute.OneDeviceStrategy):
    """Trains Keras models on one device, and updates only the rows of embeddings that a batch looked up.

    Keras's own optimizers update every row in every step, so their time grows with the table.

    Args:
        device: the device, for example "GPU:0"; None for the first card, or for the CPU if there is none.
        dense_tables_bytes: as for `tfps.ParameterServerStrategy`.
        repeated_ids: as for `tfps.ParameterServerStrategy`.

    Raises:
        ConfigError: an argument breaks its rule, or there is no such device.

    Example:
        >>> strategy = OneDeviceStrategy()  # doctest: +SKIP
        >>> with strategy.scope():  # doctest: +SKIP
        ...     model = keras.Sequential([keras.layers.Embedding(1_000_000, 16), keras.layers.Dense(1)])
    """

    def __init__(
        self,
        device: str | None = None,
        *,
        dense_tables_bytes: int = DENSE_TABLES_BYTES,
        repeated_ids: str = "sum",
    ) -> None:
        self._set_up(dense_tables_bytes, repeated_ids)
        if device is None:
            device = "GPU:0" if tf.config.list_logical_devices("GPU") else devices.CPU
        self._on_cpu = "CPU" in device
        super().__init__(_check_devices("device", [device])[0])

    def experimental_distribute_dataset(
        self, dataset: tf.data.Dataset, options: tf.distribute.InputOptions | None = None
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """Returns the dataset, whose batches are prepared while a step runs.

        For a card they are copied there in time, as TensorFlow's strategy does. Batches for the CPU are where they are
        needed, and the threads that would hand them over took a tenth of a step's time.

        Args:
            dataset: the batches.
            options: as for `tf.distribute.Strategy.experimental_distribute_dataset`.
        """
        if self._on_cpu and options is None and isinstance(dataset, tf.data.Dataset):
            return dataset.prefetch(1)
        return super().experimental_distribute_dataset(dataset, options)


class MirroredStrategy(Replicated, tf.distribute.MirroredStrategy):
    """Trains Keras models on several devices of this host, each with a copy of the model and a part of each batch.

    Args:
        devices: the devices, for example ["GPU:0", "GPU:1"]; None for all cards, or for the CPU if there is none.
        cross_device_ops: as for `tf.distribute.MirroredStrategy`; None for NCCL over cards.
        dense_tables_bytes: as for `tfps.ParameterServerStrategy`.
        repeated_ids: as for `tfps.ParameterServerStrategy`.

    Raises:
        ConfigError: an argument breaks its rule, or there is no such device.
    """

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        cross_device_ops: tf.distribute.CrossDeviceOps | None = None,
        *,
        dense_tables_bytes: int = DENSE_TABLES_BYTES,
        repeated_ids: str = "sum",
    ) -> None:
        self._set_up(dense_tables_bytes, repeated_ids)
        if cross_device_ops is not None:
            check_type(
                "cross_device_ops", cross_device_ops, tf.distribute.CrossDeviceOps, "a tf.distribute.CrossDeviceOps"
            )
        known = None if devices is None else _check_devices("devices", devices)
        on_cpu = all("CPU" in device for device in known) if known else not tf.config.list_logical_devices("GPU")
        if cross_device_ops is None and on_cpu:
            # By default TensorFlow would send rings of messages between the logical devices of one process.
            cross_device_ops = tf.distribute.ReductionToOneDevice()
        super().__init__(known, cross_device_ops)


class MultiWorkerMirroredStrategy(Replicated, tf.distribute.MultiWorkerMirroredStrategy):
    """Trains Keras models on the devices of several hosts, each with a copy of the model and a part of each batch.

    The same program runs on every host, with a TF_CONFIG whose cluster has workers (and maybe a chief) and no `ps`.
    Each worker uses all its cards, or all its logical CPU devices if it has no card; every worker must have as many.

    Args:
        cluster_resolver: a resolver that describes the cluster and this task; None for TF_CONFIG.
        communication_options: as for `tf.distribute.MultiWorkerMirroredStrategy`; None for NCCL with cards, else RING.
        dense_tables_bytes: as for `tfps.ParameterServerStrategy`.
        repeated_ids: as for `tfps.ParameterServerStrategy`.

    Raises:
        ConfigError: an argument or TF_CONFIG breaks its rule; nothing was started.
    """

    def __init__(
        self,
        cluster_resolver: tf.distribute.cluster_resolver.ClusterResolver | None = None,
        communication_options: tf.distribute.experimental.CommunicationOptions | None = None,
        *,
        dense_tables_bytes: int = DENSE_TABLES_BYTES,
        repeated_ids: str = "sum",
    ) -> None:
        self._set_up(dense_tables_bytes, repeated_ids)
        multi_worker.check_cluster(cluster_resolver)
        # TensorFlow's constructor has no setting for the class of the extended object.
        tf.distribute.Strategy.__init__(self, multi_worker.make_extended(self, cluster_resolver, communication_options))
        multi_worker.agree_on_seed(self)


def _check_devices(name: str, given: Sequence[str]) -> list[str]:
    """Returns the devices of this process by their full names."""
    if isinstance(given, str) or not given or not all(isinstance(one, str) for one in given):
        raise ConfigError(f"`{name}` must be names of devices. Received: {given!r}. Valid: such as ['GPU:0'].")
    known = [device.name for device in tf.config.list_logical_devices()]
    names = [f"/device:{device.lstrip('/').removeprefix('device:')}" for device in given]
    for one, full in zip(given, names, strict=True):
        if not any(device.endswith(full) for device in known) and not devices.names_task(one):
            short = [device.rpartition("device:")[2] for device in known]
            raise ConfigError(f"`{name}` must be devices of this process. Received: {one!r}. Valid: {short}.")
    if len(set(names)) != len(names):
        raise ConfigError(f"`{name}` must name each device once. Received: {list(given)!r}.")
    return [one if devices.names_task(one) else full for one, full in zip(given, names, strict=True)]
