"""Joins the gradients that the devices of a worker have computed, each on its part of a batch.

The gradient of the joined batch is the mean over its examples, so each device counts by its fraction of them. On cards
NCCL sums dense gradients, one buffer for each dtype, and the sum crosses to the CPU of the worker once. On CPU devices
they are added. Gradients of tables are not added here: the push sums the gradients of all devices by row, once.
"""

import contextlib
import itertools
from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.table_gradient import TableGradient
from tfps.errors import UnsupportedError
from tfps.step import Gradient

_NUMBERS = itertools.count()


def join_gradients(
    of_devices: Sequence[Sequence[Gradient | None]],
    weights: Sequence[tf.Tensor],
    devices: Sequence[str],
    known: Sequence[Sequence[TableGradient]],
) -> tuple[list[Gradient | None], list[TableGradient]]:
    """Joins gradients; called with the CPU of the worker as the device.

    Args:
        of_devices: for each device, the gradient of each variable; None for one without a gradient.
        weights: for each device its fraction of the examples, a float32 scalar.
        devices: the name of each device.
        known: for each device, the gradients from the lookups of its step.

    Returns:
        The joined gradient of each variable, and the gradients of tables among them that the push knows.

    Raises:
        UnsupportedError: the devices do not have gradients of the same variables.
    """
    present = [[gradient is not None for gradient in gradients] for gradients in of_devices]
    if any(one != present[0] for one in present):
        raise UnsupportedError(
            "a step must apply gradients of the same variables on each device of a worker. "
            f"Received: gradients of {[sum(one) for one in present]} variables. Valid: devices_per_worker=1."
        )
    if len(devices) == 1:
        return list(of_devices[0]), list(known[0])
    columns = [list(column) for column in zip(*of_devices, strict=True)]
    joined: list[Gradient | None] = [None] * len(columns)
    dense: list[int] = []
    rows: list[int] = []
    for number, column in enumerate(columns):
        if column[0] is not None:
            is_sparse = all(isinstance(gradient, tf.IndexedSlices) for gradient in column)
            (rows if is_sparse else dense).append(number)
    sums = _sum_dense(
        [[tf.convert_to_tensor(columns[i][d]) for i in dense] for d in range(len(devices))], weights, devices
    )
    for number, total in zip(dense, sums, strict=True):
        joined[number] = total
    found = []
    for number in rows:
        joined[number], of_table = _join_rows(columns[number], weights, devices, known)
        found += of_table
    return joined, found


def _join_rows(
    gradients: Sequence[tf.IndexedSlices],
    weights: Sequence[tf.Tensor],
    devices: Sequence[str],
    known: Sequence[Sequence[TableGradient]],
) -> tuple[tf.IndexedSlices, list[TableGradient]]:
    """Joins the gradients of a table, or of a dense variable by rows."""
    sources = [
        next((one for one in of_device if one.values is gradient.values), None)
        for gradient, of_device in zip(gradients, known, strict=True)
    ]
    shape, first = gradients[0].dense_shape, sources[0]
    of_one_group = [
        source for source in sources if first is not None and source is not None and source.group is first.group
    ]
    is_known = first is not None and len(of_one_group) == len(sources)
    # Lookups sum their gradients on the CPU.
    places: Sequence[str | None] = [None] * len(devices) if is_known else devices
    values = [_times(g.values, w, d) for g, w, d in zip(gradients, weights, places, strict=True)]
    if first is None or not is_known:
        return tf.IndexedSlices(tf.concat(values, 0), tf.concat([g.indices for g in gradients], 0), shape), []
    # All devices looked up the table together, so that their gradients are of the same unique ids, or of places in the
    # same answer. The push sums them once, without routing them again.
    unsummed = None
    if all(source.unsummed is not None for source in of_one_group):
        unsummed = tuple(
            (_times(part, weight, device), of_part)
            for source, weight, device in zip(of_one_group, weights, devices, strict=True)
            for part, of_part in source.unsummed or ()
        )
    if first.table.keeps_repeats:
        total, indices = tf.concat(values, 0), tf.concat([g.indices for g in gradients], 0)
    else:
        total, indices = tf.add_n(values), gradients[0].indices
    return tf.IndexedSlices(total, indices, shape), [TableGradient(first.table, first.group, total, unsummed)]


def _times(gradient: tf.Tensor, weight: tf.Tensor, device: str | None) -> tf.Tensor:
    """Returns a gradient times its weight; 0 times no number is 0.

    Args:
        gradient: the gradient.
        weight: the weight, a scalar.
        device: where the gradient is; None for the CPU of the worker.
    """
    with contextlib.nullcontext() if device is None else tf.device(device):
        return tf.math.multiply_no_nan(gradient, tf.cast(weight, gradient.dtype))


def _sum_dense(
    of_devices: Sequence[Sequence[tf.Tensor]], weights: Sequence[tf.Tensor], devices: Sequence[str]
) -> list[tf.Tensor]:
    """Sums the weighted dense gradients of all devices."""
    weighted = [
        [_times(gradient, weight, device) for gradient in gradients]
        for gradients, weight, device in zip(of_devices, weights, devices, strict=True)
    ]
    if not weighted[0] or not all("GPU" in device for device in devices):
        return [tf.add_n(list(column)) for column in zip(*weighted, strict=True)]
    sums: dict[int, tf.Tensor] = {}
    for dtype in dict.fromkeys(gradient.dtype for gradient in weighted[0]):
        chosen = [i for i, gradient in enumerate(weighted[0]) if gradient.dtype == dtype]
        flat = _sum_by_nccl([[gradients[i] for i in chosen] for gradients in weighted], devices)
        sizes = [tf.size(weighted[0][i]) for i in chosen]
        for i, part in zip(chosen, tf.split(flat, sizes, num=len(sizes)), strict=True):
            sums[i] = tf.ensure_shape(tf.reshape(part, tf.shape(weighted[0][i])), weighted[0][i].shape)
    return [sums[i] for i in range(len(weighted[0]))]


def _sum_by_nccl(of_devices: Sequence[Sequence[tf.Tensor]], devices: Sequence[str]) -> tf.Tensor:
    """Sums tensors of one dtype over cards; returns all sums in one vector, on the CPU."""
    name = f"tfps_gradients_{next(_NUMBERS)}"
    sums = []
    for gradients, device in zip(of_devices, devices, strict=True):
        with tf.device(device):
            flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)
            sums.append(
                tf.raw_ops.NcclAllReduce(input=flat, reduction="sum", num_devices=len(devices), shared_name=name)
            )
    # The sums are equal. The first one crosses, and the operations of the others take part because they are stateful.
    return tf.identity(sums[0])


def host_copy(gradient: Gradient | None) -> Gradient | None:
    """Returns a gradient on the current device, the CPU of the worker; it crosses once, however often it is used."""
    if gradient is None or isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.identity(gradient)
