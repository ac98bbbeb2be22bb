"""What replicas send each other: sums of tensors, and tensors of different lengths put one after the other.

The replicas of one process meet in memory. Then one message a call goes from host to host, by TensorFlow's collectives.
Gradients on cards go by NCCL instead, from card to card. Called in a replica context by all replicas, in one order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def all_sum(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the sum of each tensor over all replicas. Shapes and dtypes are the same on all replicas."""
    replica = tf.distribute.get_replica_context()
    if not tensors or replica.num_replicas_in_sync == 1:
        return list(tensors)
    if all("GPU" in device for device in replica.strategy.extended.worker_devices):
        return list(replica.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))

    def meet(strategy: tf.distribute.Strategy, *values: Any) -> list[tf.Tensor]:
        with tf.device(_host_of(strategy)):
            sums = [tf.add_n(list(strategy.experimental_local_results(value))) for value in values]
            return _over_hosts(strategy, sums, _sum_over_hosts)

    return list(replica.merge_call(meet, args=tuple(tensors)))


def all_concat(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensors of all replicas, one after the other along the first axis, which may differ in length."""
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return tensor
    shape = [None, *tensor.shape[1:]]

    def meet(strategy: tf.distribute.Strategy, value: Any) -> tf.Tensor:
        with tf.device(_host_of(strategy)):
            joined = tf.concat(list(strategy.experimental_local_results(value)), 0)
            return _over_hosts(strategy, [joined], _concat_over_hosts)[0]

    return tf.ensure_shape(replica.merge_call(meet, args=(tensor,)), shape)


def _host_of(strategy: tf.distribute.Strategy) -> str:
    """Returns the device where the replicas of this process meet: the CPU, as messages start there."""
    return (
        tf.DeviceSpec.from_string(strategy.extended.worker_devices[0])
        .replace(device_type="CPU", device_index=0)
        .to_string()
    )


def _over_hosts(
    strategy: tf.distribute.Strategy, tensors: list[tf.Tensor], send: Callable[[Any, list[tf.Tensor]], list[tf.Tensor]]
) -> list[tf.Tensor]:
    if not getattr(strategy.extended, "_in_multi_worker_mode", lambda: False)():
        return tensors
    # One launcher: that of the host, not of a device.
    (launcher,) = strategy.extended._host_cross_device_ops._launchers
    if tf.executing_eagerly():
        return tf.function(lambda *values: send(launcher, list(values)), autograph=False)(*tensors)
    return send(launcher, tensors)


def _sum_over_hosts(launcher: Any, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    # One message for each dtype.
    result: list[Any] = [None] * len(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
        sums = launcher.batch_all_reduce([[tensors[place] for place in places]])
        for place, total in zip(places, sums, strict=True):
            result[place] = tf.ensure_shape(total, tensors[place].shape)
    return result


def _concat_over_hosts(launcher: Any, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    return [launcher.all_gather(tensor, 0) for tensor in tensors]
