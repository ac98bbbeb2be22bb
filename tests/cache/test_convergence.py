"""The quality of models whose workers keep rows, on real data."""

import dataclasses

import numpy as np
import pytest

from benchmarks.convergence_run import Mode, Run
from benchmarks.convergence_tasks import TASKS
from tfps import LocalCluster, ParameterServerStrategy
from tfps.embedding.row_cache import CacheSize


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize(("task", "epochs"), [("adult", 4), ("criteo", 4)])
def test_caches_cost_less_than_a_thousandth_of_auc(data, workers, task, epochs):
    task = dataclasses.replace(TASKS[task](data), epochs=epochs)
    seeds = range(4)

    def mean(strategy, size):
        strategy.cache_size = size
        run = Run(task, Mode("async"), workers, strategy)
        return np.mean([run.train(seed)["curve"][-1]["auc"] for seed in seeds])

    with ParameterServerStrategy(LocalCluster(num_ps=1, num_workers=workers), dense_tables_bytes=0) as strategy:
        fresh = mean(strategy, None)
        before = strategy.record.counts().cached
        cached = mean(strategy, CacheSize(1 << 17, 256))
        now = strategy.record.counts().cached
    assert cached > fresh - 0.001, (cached, fresh)
    # Not by keeping nothing.
    assert now.found - before.found > 0
