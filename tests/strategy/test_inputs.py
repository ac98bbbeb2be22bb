"""What workers have of an input: whose share goes on elsewhere, and what is left when nobody asks for it any more."""

import tensorflow as tf

from tfps.strategy.inputs import WorkerInput, worker_iterator

BATCHES = 20


def read(strategy, host, name, spec, count):
    """Batches from an iterator of a worker."""

    def read_there():
        batches = worker_iterator(name, spec)
        return [next(batches) for _ in range(count)]

    return [int(batch) for batch in strategy.pool.call(host, read_there)]


def test_share_that_moves_keeps_the_order_of_its_epoch(strategy):
    source = WorkerInput(tf.data.Dataset.range(BATCHES).shuffle(BATCHES), strategy.worker_devices)
    orders = []
    for number in range(3):  # all of them are over the same dataset, as an evaluation while an epoch is under way
        epoch = iter(source)
        epoch.begin()
        strategy.pool.call(0, lambda e=epoch, n=number: e.start(0, 0, f"test_moves_{n}"))
        orders.append((epoch, read(strategy, 0, f"test_moves_{number}", source.element_spec, BATCHES // 2)))
    assert len({tuple(order) for _, order in orders}) == 3
    epoch, order = orders[1]
    epoch.taken[0] = 4
    strategy.pool.call(1, lambda: epoch.start(0, 1, "test_moves_there"))
    assert read(strategy, 1, "test_moves_there", source.element_spec, BATCHES // 2 - 4) == order[4:]
