"""Connects TensorFlow anew to tasks that were started again.

A task that was started again at its address has lost what it held, and TensorFlow knows that: calls on it fail. After
an update the task is a new one, without variables. The other tasks keep theirs, and functions that only used those need
no new trace.

Threading: no call on any task may be under way, because TensorFlow waits for such calls without a limit. Cost: about
0.3 s, a message to each task.
"""

from collections.abc import Collection

from tfps import jobs
from tfps.cluster.spec import ClusterSpec


def update_tasks(spec: ClusterSpec, absent: Collection[tuple[str, int]] = ()) -> None:
    """Connects this process to all tasks of a cluster but those that are absent.

    Args:
        spec: the addresses of the tasks.
        absent: the job and index of each task that is gone. A later update may add it again.

    Raises:
        tf.errors.OpError: a task cannot be reached.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context  # no public name reaches the server definition

    before = context.context().get_server_def()
    tasks: dict[str, dict[int, str]] = {jobs.PS: {}, jobs.WORKER: {}}
    for job, index, endpoint in spec.servers():
        if (job, index) not in absent:
            tasks[job][index] = endpoint.dial
    chief = next(job.tasks[before.task_index] for job in before.cluster.job if job.name == before.job_name)
    after = type(before)()
    after.CopyFrom(before)
    present = {job: addresses for job, addresses in tasks.items() if addresses}
    after.cluster.CopyFrom(tf.train.ClusterSpec(present | {before.job_name: {0: chief}}).as_cluster_def())
    # An update cannot change the device filters: the first ones stay in force.
    after.ClearField("cluster_device_filters")
    context.context().update_server_def(after)
