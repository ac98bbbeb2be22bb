"""The TensorFlow devices of a cluster's tasks. The one place that spells a device name.

A parameter server keeps its variables on its CPU. A worker computes on one device; `Worker.compute_device` says
which, so that a worker with a card needs a change here and nowhere else. Pure functions, any thread.
"""

import dataclasses
import re

from tfps import jobs

CHIEF = "/device:CPU:0"
"""The chief's own device. It names no job, so it is right before the chief connects to its cluster and after."""


# TensorFlow writes a device with and without its replica: "/job:ps/task:1", "/job:ps/replica:0/task:1/device:CPU:0".
_TASK = re.compile(rf"/job:(?P<job>{jobs.PS}|{jobs.WORKER})/(?:replica:\d+/)?task:(?P<index>\d+)")
# The job of every process until it connects; then the chief's own devices are called by the chief's job.
_UNCONNECTED = "/job:localhost"


def find_task(text: str) -> tuple[str, int] | None:
    """The job and index of the first server or worker that a text of TensorFlow's names by a device."""
    task = _TASK.search(text)
    return (task["job"], int(task["index"])) if task else None


def is_unconnected(device: str) -> bool:
    """Whether a device's name is from before this process connected to a cluster; then its devices have others."""
    return _UNCONNECTED in device


def is_of_job(device: str, job: str) -> bool:
    """Whether a full device name is that of a task of this job."""
    return f"/job:{job}/" in device


def of_task(job: str, index: int, device: str = "CPU:0") -> str:
    """The full name of a device of one task.

    Args:
        job: "ps" or "worker".
        index: the task's position in its job, from 0.
        device: kind and number of the device on that task.

    Example:
        >>> of_task("ps", 1)
        '/job:ps/replica:0/task:1/device:CPU:0'
    """
    return f"/job:{job}/replica:0/task:{index}/device:{device}"


def server(index: int) -> str:
    """The device of a parameter server: its variables live there, and graphs on their rows run there."""
    return of_task(jobs.PS, index)


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker and where it computes.

    Args:
        index: the worker's position in its job, from 0.
        device: kind and number of the device that runs its steps.
    """

    index: int
    device: str = "CPU:0"

    @property
    def compute_device(self) -> str:
        """The full name of the device that runs the worker's steps."""
        return of_task(jobs.WORKER, self.index, self.device)
