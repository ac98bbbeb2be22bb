"""A model of a cluster: the most steps a second it can make, and what limits it. Needs no TensorFlow.

There are four bounds, in steps a second of all workers together. The smallest is the prediction:

    chief    1000 / (chief CPU ms a step): its Python runs on one core
    server   servers x cores x 1000 / (CPU ms a step of all servers), or servers x bandwidth / bytes, whichever is less
    worker   workers x 1000 / (milliseconds of a step from beginning to end, without waiting for other workers)
    memory   0 where the rows and their slots do not fit the servers

This is no simulation: where two bounds are close, queues make the truth lower than either.
"""

import dataclasses

_MS, _BITS = 1000.0, 8.0
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Costs:
    """What was measured. CPU in milliseconds, of one core of the machine that measured.

    Args:
        chief_ms_per_closure: CPU of the chief a closure.
        chief_ms_per_step: CPU of the chief a step.
        chief_ms_per_callback: CPU of the chief each time Keras's loop comes round, callbacks included.
        server_ms_per_request: CPU of a server for one step of one worker, however small.
        server_ms_per_row: CPU of a server to read and update one unique row.
        server_ms_per_closure: CPU of all servers to give dense variables out and to add deltas.
        worker_ms_per_step: CPU of a worker a step, whatever its size.
        worker_ms_per_request: CPU of a worker a step and server.
        worker_ms_per_example: CPU of a worker an example: the model itself, and its rows.
        worker_ms_per_closure: CPU of a worker to take dense variables in and to send deltas.
        bytes_per_request: what a step sends to and from a server beside rows.
        bytes_per_row: what crosses for a unique row, both ways, ids included.
        bytes_per_closure: what an exchange of dense variables sends, both ways.
        delays_per_step: network delays, one way, that a step waits for.
        delays_per_closure: the same around the steps of a closure.
        server_base_bytes: memory of a server that holds nothing.
    """

    chief_ms_per_closure: float
    chief_ms_per_step: float
    chief_ms_per_callback: float
    server_ms_per_request: float
    server_ms_per_row: float
    server_ms_per_closure: float
    worker_ms_per_step: float
    worker_ms_per_request: float
    worker_ms_per_example: float
    worker_ms_per_closure: float
    bytes_per_request: float
    bytes_per_row: float
    bytes_per_closure: float
    delays_per_step: float
    delays_per_closure: float
    server_base_bytes: float

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name, value in dataclasses.asdict(self).items():
            if not value >= 0:
                raise ValueError(f"`{name}` must be at least 0. Received: {value!r}.")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained, and by how many.

    Args:
        workers: workers.
        servers: parameter servers.
        rows: of all tables together.
        batch: examples a step.
        unique_rows: rows that a step asks for, each once.
        steps_per_closure: steps between two exchanges of dense variables.
        steps_per_callback: `compile(steps_per_execution=)`.
        dim: floats a row.
        slots: floats of optimizer state for each of a row.
    """

    workers: int
    servers: int
    rows: float
    batch: int
    unique_rows: float
    steps_per_closure: float
    steps_per_callback: float = 1
    dim: int = 10
    slots: int = 1

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name, value in dataclasses.asdict(self).items():
            if not value >= (0 if name in ("slots", "unique_rows") else 1):
                raise ValueError(f"`{name}` is too small. Received: {value!r}.")


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The machines: one a server and one a worker, or one for all of them.

    Args:
        server_cores: cores of a server's machine.
        server_gbit_s: what its network carries each way.
        server_memory_gb: its memory, decimal.
        delay_ms: of a message, one way.
        speed: of a core, relative to the machine that measured.
        shared_cores: cores of the one machine that runs everything; None where each has its own.
    """

    server_cores: float = 16
    server_gbit_s: float = 10
    server_memory_gb: float = 128
    delay_ms: float = 0.1
    speed: float = 1.0
    shared_cores: float | None = None


@dataclasses.dataclass(frozen=True)
class Projection:
    """steps_per_s: of all workers. binds: the bound that gives it. bounds: all of them, by name."""

    steps_per_s: float
    examples_per_s: float
    binds: str
    bounds: dict[str, float]
    server_bytes: float


def cpu_ms(costs: Costs, job: Job) -> dict[str, float]:
    """CPU milliseconds of one step, by role, of all servers together."""
    each = 1 / job.steps_per_closure
    return {
        "chief": costs.chief_ms_per_step
        + costs.chief_ms_per_closure * each
        + costs.chief_ms_per_callback / job.steps_per_callback,
        "workers": costs.worker_ms_per_step
        + costs.worker_ms_per_request * job.servers
        + costs.worker_ms_per_example * job.batch
        + costs.worker_ms_per_closure * each,
        "servers": costs.server_ms_per_request * job.servers
        + costs.server_ms_per_row * job.unique_rows
        + costs.server_ms_per_closure * each,
    }


def bytes_per_step(costs: Costs, job: Job) -> float:
    """What crosses between a worker and all servers in one step, both ways."""
    dense = costs.bytes_per_closure / job.steps_per_closure
    return costs.bytes_per_request * job.servers + costs.bytes_per_row * job.unique_rows + dense


def server_bytes(costs: Costs, job: Job) -> float:
    """Memory of a server: its share of the rows, their slots, and the process."""
    return costs.server_base_bytes + job.rows * job.dim * 4 * (1 + job.slots) / job.servers


def step_ms(costs: Costs, job: Job, hosts: Hosts) -> float:
    """How long a step takes that waits for nobody: the worker's CPU, a server's share, its bytes, the delays."""
    cpu = cpu_ms(costs, job)
    delays = costs.delays_per_step + costs.delays_per_closure / job.steps_per_closure
    transfer = _MS * bytes_per_step(costs, job) / 2 / job.servers * _BITS / (hosts.server_gbit_s * _GB)
    chief = costs.chief_ms_per_closure / job.steps_per_closure
    busy = cpu["workers"] + cpu["servers"] / job.servers + chief
    return busy / hosts.speed + transfer + delays * hosts.delay_ms


def project(costs: Costs, job: Job, hosts: Hosts) -> Projection:
    """Steps a second of a cluster, and what binds it."""
    cpu = {role: ms / hosts.speed for role, ms in cpu_ms(costs, job).items()}
    memory = server_bytes(costs, job)
    one_way_bits = bytes_per_step(costs, job) / 2 * _BITS
    bounds = {
        "chief": _MS / cpu["chief"],
        "server CPU": job.servers * hosts.server_cores * _MS / cpu["servers"],
        "server network": job.servers * hosts.server_gbit_s * _GB / one_way_bits,
        "workers": job.workers * _MS / step_ms(costs, job, hosts),
    }
    if hosts.shared_cores is not None:
        bounds["cores"] = hosts.shared_cores * _MS / sum(cpu.values())
    if memory > hosts.server_memory_gb * _GB:
        bounds["server memory"] = 0.0
    binds = min(bounds, key=lambda name: bounds[name])
    return Projection(bounds[binds], bounds[binds] * job.batch, binds, bounds, memory)
