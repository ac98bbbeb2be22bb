"""The TensorFlow devices of a cluster's tasks. The one place that spells a device name.

A parameter server keeps its variables on its CPU. A worker runs its closures on its CPU, `Worker.compute_device`; their
steps may compute on cards (`tfps.strategy.step_devices`). Pure functions, any thread.
"""

import dataclasses
import re

from tfps import jobs

CHIEF = "/device:CPU:0"
"""The chief's own device. It names no job, so it is valid both before and after the chief connects to its cluster."""

CPU = CHIEF
"""The CPU of the process that runs an operation, whichever it is: it names no task."""

# TensorFlow writes a device with or without its replica: "/job:ps/task:1", "/job:ps/replica:0/task:1/device:CPU:0".
_TASK = re.compile(rf"/job:(?P<job>{jobs.PS}|{jobs.WORKER})/(?:replica:\d+/)?task:(?P<index>\d+)")
# Every process is "localhost" until it connects to a cluster; then the chief's devices carry the name of its job.
_UNCONNECTED = "/job:localhost"


def find_task(text: str) -> tuple[str, int] | None:
    """Returns the job and index of the first server or worker whose device appears in a message of TensorFlow."""
    task = _TASK.search(text)
    return (task["job"], int(task["index"])) if task else None


def is_unconnected(device: str) -> bool:
    """Returns whether a device name dates from before this process connected to a cluster and is no longer valid."""
    return _UNCONNECTED in device


def names_task(device: str) -> bool:
    """Returns whether a device name has a job, and so belongs to one task."""
    return "/job:" in device


def is_of_job(device: str, job: str) -> bool:
    """Returns whether a full device name belongs to a task of this job."""
    return f"/job:{job}/" in device


def task_device(job: str, index: int, device: str = "CPU:0") -> str:
    """Returns the full name of a device on one task.

    Args:
        job: "ps" or "worker".
        index: the task's position in its job, from 0.
        device: kind and number of the device on that task.

    Example:
        >>> task_device("ps", 1)
        '/job:ps/replica:0/task:1/device:CPU:0'
    """
    return f"/job:{job}/replica:0/task:{index}/device:{device}"


def server(index: int) -> str:
    """Returns the device of a parameter server, which holds its variables and runs the graphs that use their rows."""
    return task_device(jobs.PS, index)


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker and the device of its closures.

    Args:
        index: the worker's position in its job, from 0.
        device: kind and number of the device that runs its closures.
    """

    index: int
    device: str = "CPU:0"

    @property
    def compute_device(self) -> str:
        """The full name of the device that runs the worker's closures."""
        return task_device(jobs.WORKER, self.index, self.device)
