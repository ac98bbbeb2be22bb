"""Says once in a program that the workers could compute in bfloat16, if their CPUs can and they limit the speed."""

import logging

import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices
from tfps.cluster.cpu_features import BFLOAT16_FLAGS, bfloat16_flags
from tfps.errors import ClusterTimeoutError
from tfps.runtime.waiting import Wait, call_within
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.remote_files import read_files, sample

_LOG = logging.getLogger("tfps")
_LIMIT_S = 10.0
"""Seconds to wait for workers on other machines."""
_LINES = 40
"""The first core of /proc/cpuinfo has fewer lines."""
_SAID = set[str]()
_ADVICE = (
    "The CPUs of the workers have {flag} for matrix products in bfloat16, and this model computes in float32. To use "
    'it, call keras.mixed_precision.set_global_policy("mixed_bfloat16") before the model is built: weights and slots '
    "stay float32. With avx512_bf16 the CTR-DNN trained {ratio} times as fast (docs/performance.md, bfloat16)."
)
RATIO = 1.4
"""The examples a second of `benchmarks.ctr_dnn --policy mixed_bfloat16` to those of float32."""


def advise(strategy: ParameterServerStrategy) -> None:
    """Logs the advice if all workers have one of `BFLOAT16_FLAGS`; once in a program, whatever it trains later.

    Args:
        strategy: the strategy of a model that computes in float32.
    """
    if _SAID:
        return
    flags = worker_flags(strategy)
    if flags:
        _SAID.add("bfloat16")
        _LOG.info("%s", _ADVICE.format(flag=flags[0], ratio=RATIO))


def worker_flags(strategy: ParameterServerStrategy) -> list[str]:
    """Returns which of `BFLOAT16_FLAGS` the CPUs of all workers have; none if they cannot be read."""
    if strategy.cluster is not None:
        return bfloat16_flags()
    count = len(strategy._cluster_resolver.cluster_spec().as_dict()[jobs.WORKER])
    there = [devices.task_device(jobs.WORKER, index) for index in sample(count)]
    try:
        wait = Wait("the CPUs of the workers", _LIMIT_S)
        texts = call_within(lambda: read_files(there, ["/proc/cpuinfo"], _LINES), wait)
    except (tf.errors.OpError, ClusterTimeoutError):
        return []
    # A worker without them would be slower in bfloat16 than in float32.
    found = [bfloat16_flags(text) for text in texts]
    return [flag for flag in BFLOAT16_FLAGS if all(flag in flags for flags in found)]
