"""Chooses the devices on which the steps of a worker compute."""

import logging

import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices
from tfps.errors import ConfigError

_LOG = logging.getLogger("tfps")


def choose_step_devices(wanted: int | None, workers: int) -> tuple[str, ...]:
    """Returns the devices of a worker that share each batch; none if its steps run on its CPU as they are.

    All workers run the same graphs, so the names fit each of them: "/device:GPU:1".

    Args:
        wanted: the number of devices; None for all cards that every worker has.
        workers: the number of workers. The program is connected to them.

    Raises:
        ConfigError: a worker has fewer devices.
    """
    cards, cpus = ([_count(worker, kind) for worker in range(workers)] for kind in ("GPU", "CPU"))
    kind, counts = ("GPU", cards) if min(cards) else ("CPU", cpus)
    most = min(counts)
    if wanted is None:
        wanted = most if kind == "GPU" else 1
    if wanted > most:
        raise ConfigError(
            f"`devices_per_worker` must be at most {most}, because worker {counts.index(most)} has so many "
            f"{'cards' if kind == 'GPU' else 'CPU devices and no card'}. Received: {wanted}."
        )
    if kind == "GPU":
        _LOG.info("steps run on %d of the cards of each worker; workers have %s.", wanted, cards)
    elif wanted == 1:
        return ()
    return tuple(f"/device:{kind}:{number}" for number in range(wanted))


def leave_cards_to_workers() -> None:
    """Keeps this process, the chief, off the cards of its machine: TensorFlow would take all their memory for it."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        _LOG.warning(
            "this program has used TensorFlow before it made a strategy, and holds memory of the cards that its "
            "workers need. Make the strategy first."
        )


def _count(worker: int, kind: str) -> int:
    """Returns the number of devices of a kind that a worker has."""
    task = devices.task_device(jobs.WORKER, worker, f"{kind}:")
    return sum(device.name.startswith(task) for device in tf.config.list_logical_devices(kind))
