"""Bytes of a step, against twins that send every message by itself."""

import dataclasses

import pytest

from tfps.choice import costs
from tfps.choice.footprint import ID_BYTES, Footprint, StepCounts
from tfps.choice.hardware import Site
from tfps.placement.spec import VariableSpec


def footprint(dense=1000, slots=1, rows=10_000, width=8, ids=64.0, **step):
    """A model of one dense variable of some floats and one table."""
    specs = (
        VariableSpec("kernel", (dense,), slots=slots),
        VariableSpec("table", (rows, width), slots=slots, rows_per_step=ids, is_table=True),
    )
    return Footprint(int(ids), specs, StepCounts(**step))


def ring(replicas, dense, rows):
    """Runs a ring all-reduce and a gather chunk by chunk; the bytes that each replica sends."""
    sent = [0.0] * replicas
    # Every replica sends a chunk to its neighbour, once to sum them up and once to spread the sums.
    for _ in range(2):
        for _ in range(replicas - 1):
            sent = [bytes_sent + dense / replicas for bytes_sent in sent]
    # It then hands on the rows of each other replica, its own first.
    for _ in range(replicas - 1):
        sent = [bytes_sent + rows for bytes_sent in sent]
    return sent


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
def test_all_reduce_is_a_ring(replicas):
    model = footprint()
    rows = model.row_gradient_bytes + ID_BYTES * model.unique_rows
    for sent in ring(replicas, 4 * 1000, rows):
        assert costs.all_reduce_bytes(model, replicas) == pytest.approx(sent)


def pairs(model, site, servers, every):
    """Sends the messages of each worker and server of a step; the most bytes that a host sends or receives."""
    at_worker = [worker * site.hosts // site.workers for worker in range(site.workers)]
    at_server = [server % (site.server_hosts or site.hosts) for server in range(servers)]
    if site.server_hosts:
        at_server = [site.hosts + host for host in at_server]
    sent, received = ({host: 0.0 for host in range(site.hosts + site.server_hosts)} for _ in range(2))
    dense = model.dense_bytes / every
    down = (model.row_bytes + dense) / servers
    up = (ID_BYTES * model.unique_rows + model.row_gradient_bytes + dense) / servers
    for worker in at_worker:
        for server in at_server:
            if worker != server:
                sent[server] += down
                received[worker] += down
                sent[worker] += up
                received[server] += up
    return max(*sent.values(), *received.values())


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(
    ("hosts", "workers", "servers", "server_hosts"),
    [(4, 4, 4, 0), (4, 8, 4, 0), (2, 2, 4, 0), (4, 4, 2, 2), (8, 8, 2, 1)],
)
def test_parameter_servers_are_their_messages(hosts, workers, servers, server_hosts, every):
    site = Site(hosts=hosts, workers=workers, server_hosts=server_hosts)
    expected = pairs(footprint(), site, servers, every)
    assert costs.server_link_bytes(footprint(), site, servers, every) == pytest.approx(expected)


def test_hosts_without_a_server_leave_the_others_more_to_do():
    model, site = footprint(), Site(hosts=8, workers=8)
    few, many = (costs.server_link_bytes(model, site, servers) for servers in (1, 8))
    # The only server sends what eight workers receive; a worker on its host sends beside it.
    assert few > 3 * many


def test_a_replica_holds_everything_and_a_worker_no_table():
    model = footprint(activation_bytes=5000, largest_bytes=100)
    assert model.variable_bytes == 4 * (1000 + 80_000) and model.slot_bytes == model.variable_bytes
    assert model.working_bytes == 5000 + 2 * 100
    gradients = 4000 + model.unique_rows * 32
    assert model.replica_bytes == pytest.approx(8 * 81_000 + gradients + 5200)
    assert model.worker_bytes == pytest.approx(8000 + 4000 + 2 * model.unique_rows * 32 + 5200)
    assert model.table_share == pytest.approx(80_000 / 81_000)
    assert 1 < model.unique_rows < 64


def test_without_slots_initialization_is_the_peak():
    model = Footprint(1, (VariableSpec("table", (10**6, 8), rows_per_step=1, is_table=True),), StepCounts())
    assert model.replica_bytes == 2 * 32 * 10**6


def test_an_optimizer_that_is_not_row_wise_makes_gradients_of_whole_tables():
    model = dataclasses.replace(footprint(), row_wise=False)
    assert model.gradient_bytes == 4 * (1000 + 80_000)


def test_the_largest_batch_fits_and_a_larger_one_does_not():
    model = footprint(activation_bytes=64 * 100, largest_bytes=0)
    rest = model.worker_bytes - model.working_bytes
    assert model.largest_batch(rest + 640, lambda model: model.worker_bytes) == 6
    assert model.largest_batch(rest - 1, lambda model: model.worker_bytes) == 0


def test_the_hosts_that_are_needed_hold_the_model_and_one_fewer_does_not():
    from tfps.choice.candidates import fits_hosts

    model = footprint(rows=10**10, width=16)
    site = Site(host_bytes=64e9)
    needed = costs.hosts_needed(model, site)
    assert needed > 10
    for hosts, fits in ((needed, True), (needed - 1, False)):
        there = dataclasses.replace(site, hosts=hosts, workers=hosts)
        assert fits_hosts(model, there, hosts) == fits
    assert costs.hosts_needed(model, Site(host_bytes=1e9)) == 0
