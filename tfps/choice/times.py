"""Predicted times of a step under each strategy, in seconds. The constants, and their sources, are in `constants`.

The predictions rank strategies on given machines. docs/choosing.md compares them with measured CPU times of one
machine; across hosts they are arithmetic on bytes and bandwidth. Pure functions.
"""

import dataclasses

from tfps.choice import constants
from tfps.choice.costs import all_reduce_bytes, exchange, server_link_bytes
from tfps.choice.footprint import Footprint
from tfps.choice.hardware import Site


@dataclasses.dataclass(frozen=True)
class Speed:
    """A predicted speed.

    Args:
        step_s: seconds of a step of one replica.
        examples_per_s: examples a second of all replicas.
    """

    step_s: float
    examples_per_s: float


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one step of one replica on a CPU.

    Args:
        serial_s: seconds that one core works alone.
        parallel_s: seconds of one core for what several cores share.
    """

    serial_s: float
    parallel_s: float

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU."""
        return self.serial_s + self.parallel_s


def cpu_work(footprint: Footprint) -> Work:
    """Returns the work of a step on a CPU: products, other operations, updates of variables and rows."""
    trained = sum(1 for spec in footprint.specs if spec.trainable)
    operations = footprint.step.operations + constants.UPDATE_OPERATIONS * trained
    # An update reads the gradient, and reads and writes the variable and its slots.
    touched = 2 * footprint.dense_bytes + footprint.dense_gradient_bytes
    if not footprint.row_wise:
        touched += 2 * footprint.table_bytes
    touched += constants.PASSES * footprint.step.written_bytes
    return Work(
        constants.OPERATION_S * operations,
        footprint.step.flops / constants.CORE_FLOPS
        + touched / constants.CORE_BYTES_S
        + footprint.unique_rows * constants.ROW_S,
    )


def card_step_s(footprint: Footprint) -> float:
    """Returns the seconds of a step on a card, without `fit` of Keras."""
    trained = sum(1 for spec in footprint.specs if spec.trainable)
    operations = footprint.step.operations + constants.UPDATE_OPERATIONS * trained
    touched = 2 * footprint.dense_bytes + constants.PASSES * footprint.step.written_bytes
    return (
        operations * constants.CARD_OPERATION_S
        + footprint.step.flops / constants.CARD_FLOPS
        + touched / constants.CARD_BYTES_S
    )


def one_device(footprint: Footprint, site: Site) -> Speed:
    """Predicts one process with one device: a card, or all cores."""
    return _speed(footprint, 1, constants.STEP_S + _compute_s(footprint, site, 1))


def mirrored(footprint: Footprint, site: Site, replicas: int) -> Speed:
    """Predicts one process with several replicas: on the cards of a host, or on logical devices of its CPU."""
    sent = all_reduce_bytes(footprint, replicas)
    if site.cards:
        step_s = constants.REPLICATED_STEP_S + card_step_s(footprint) + sent / constants.CARD_LINK_BYTES_S
    else:
        # The replicas share the cores, and each byte is added up by them.
        work = cpu_work(footprint)
        step_s = constants.REPLICATED_STEP_S + replicas * (work.serial_s + work.parallel_s / _cores(site.cores))
        step_s += replicas * sent / constants.CORE_BYTES_S
    return _speed(footprint, replicas, step_s + constants.REPLICA_STEP_S)


def multi_worker_mirrored(footprint: Footprint, site: Site) -> Speed:
    """Predicts one process for each worker, whose gradients are reduced in a ring over all replicas."""
    replicas = site.workers * site.devices_per_worker
    sent = all_reduce_bytes(footprint, replicas)
    # Logical devices of a CPU share its cores.
    turns = 1 if site.cards else site.cpu_devices
    bandwidth = site.bandwidth if site.hosts > 1 else constants.LOOPBACK_BYTES_S
    delays = 2 * (site.workers - 1) * (constants.DELAY_S if site.hosts > 1 else 0)
    step_s = (
        constants.REPLICATED_STEP_S
        + turns * _compute_s(footprint, site, site.workers_per_host)
        + sent / bandwidth
        + delays
    )
    return _speed(footprint, replicas, step_s + constants.REPLICA_STEP_S)


def parameter_servers(footprint: Footprint, site: Site, servers: int) -> Speed:
    """Predicts asynchronous training with parameter servers. The slowest of workers, servers, links and chief decides.

    Args:
        footprint: the model.
        site: the machines; `workers` are those of the cluster.
        servers: parameter servers.
    """
    one = exchange(footprint, site.workers)
    worker_s, server_s, chief_s = _server_costs(footprint, servers, one.every)
    work = cpu_work(footprint)
    # A worker asks its servers at once, as far as it has cores; then it waits for the slowest.
    cores = site.cores / site.workers_per_host
    asked_s = constants.WORKER_REQUEST_S * (servers - 1) * (1 - 1 / max(1.0, min(servers, _cores(cores))))
    step_s = worker_s - asked_s + _compute_s(footprint, site, site.workers_per_host) + server_s / servers + chief_s
    if site.hosts > 1:
        step_s += constants.DELAYS_STEP * constants.DELAY_S + (one.down + one.up) / site.bandwidth
    # Bounds on the steps a second of all workers.
    on_workers = worker_s + (0 if site.cards else work.cpu_s)
    bounds = [site.workers / step_s, 1 / chief_s]
    if site.server_hosts:
        bounds += [site.hosts * site.cores / on_workers, site.server_hosts * site.cores / server_s]
    else:
        bounds.append(site.hosts * site.cores / (on_workers + server_s + (chief_s if site.hosts == 1 else 0)))
    if site.hosts > 1:
        bounds.append(site.workers * site.bandwidth / server_link_bytes(footprint, site, servers))
    steps = min(bounds)
    return Speed(site.workers / steps, steps * max(1, site.cards) * footprint.batch_size)


def _server_costs(footprint: Footprint, servers: int, every: int) -> tuple[float, float, float]:
    """Returns the seconds of CPU of a step: of its worker beside the model, of all servers, and of the chief."""
    # The bytes of an exchange cost worker and servers about the same.
    closure = (constants.CLOSURE_S + constants.EXCHANGE_S_BYTE * footprint.dense_bytes) / 2 / every
    worker = constants.WORKER_STEP_S + constants.WORKER_REQUEST_S * servers + closure
    server = constants.SERVER_REQUEST_S * servers + constants.SERVER_ROW_S * footprint.unique_rows + closure
    return worker, server, constants.CHIEF_CLOSURE_S / every


def _compute_s(footprint: Footprint, site: Site, processes: int) -> float:
    """Returns the seconds of a step without `fit` of Keras, of each of some processes on a host."""
    if site.cards:
        return card_step_s(footprint)
    work = cpu_work(footprint)
    return work.serial_s + work.parallel_s / _cores(site.cores / processes)


def _cores(cores: float) -> float:
    """Returns the cores that the parallel part of a step keeps busy."""
    return min(cores * constants.PARALLEL if cores > 1 else cores, constants.MOST_CORES)


def _speed(footprint: Footprint, replicas: int, step_s: float) -> Speed:
    return Speed(step_s, replicas * footprint.batch_size / step_s)
