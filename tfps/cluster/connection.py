"""The connection of this program to a cluster, from the construction of a strategy until it ends.

TensorFlow has one context per process and connects it to one cluster at a time. Variables, iterators and traced
functions of an earlier connection name devices that no longer exist, and TensorFlow crashes or hangs when they are
used. So each of them checks its connection before use, and a connection that has ended raises an error with the reason.

A connection ends when its strategy is closed, when a newer strategy replaces it, when its `LocalCluster` is stopped,
when a parameter server of that cluster dies, or when no strategy, model or variable refers to it any more.

Threading: `check` may be called from any thread. `Connection`, `connect` and `end` belong to the thread that makes
strategies. The thread of `background` cleans up after a connection that was collected.
"""

import gc
import logging
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tfps import jobs
from tfps.cluster import background, reach
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ClusterError, TaskDiedError

if TYPE_CHECKING:
    from tensorflow.core.protobuf.tensorflow_server_pb2 import ServerDef

_PARTING_S = 0.5
"""Seconds for variables that were collected together with their connection to delete themselves on the servers."""

_LOG = logging.getLogger("tfps")


class RemoteUser(Protocol):
    """An object that holds resources on other tasks: a variable or a traced function."""

    def release(self) -> None:
        """Drops the remote resources because the connection ends. Called at most once, while the cluster still runs."""
        ...


class Holder(Protocol):
    """An object that keeps handles of things on a task: a variable, a dataset, a traced function."""

    def forget(self, device: str) -> None:
        """Drops the handles of things on a device, which have ended with its task, or makes the things anew."""
        ...


class _Resources:
    """The threads and the embedded cluster that end with a connection, each once and in this order.

    This is not part of `Connection`, because cleanup needs it after the connection has been collected.
    """

    def __init__(self, cluster: LocalCluster | ClusterSpec) -> None:
        self.pools: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._stop = cluster.stop if isinstance(cluster, LocalCluster) else None

    def close_pools(self) -> None:
        """Closes the pools; calls that are running get a few seconds to finish."""
        while self.pools:
            close = self.pools.pop()()
            if close is not None:
                close()

    def stop_cluster(self) -> None:
        """Stops the embedded cluster; servers of a TF_CONFIG end with the program."""
        # Cleared before the call, so that only one thread makes it.
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def keep_cluster(self) -> None:
        """Leaves the cluster running for another connection."""
        self._stop = None

    def close_later(self) -> None:
        """Closes the pools and stops the cluster after a pause, in which collected variables delete their values."""
        time.sleep(_PARTING_S)
        self.close()

    def close(self) -> None:
        """Closes the pools and stops the cluster."""
        self.close_pools()
        self.stop_cluster()


class Connection:
    """A cluster as this program sees it.

    States: open -> failed (`fail`: a server died) -> ended (`release_users`, then `finish`). `check` raises in the last
    two. A failed connection keeps its threads and processes, because callers that wait for them must see them fail.

    Args:
        cluster: the embedded cluster, or the addresses of the tasks in TF_CONFIG.
    """

    def __init__(self, cluster: LocalCluster | ClusterSpec) -> None:
        self.cluster = cluster
        # The cluster's count of stops when this connection began; a higher count later means that it was stopped.
        self._stops = cluster.stops if isinstance(cluster, LocalCluster) else 0
        self._why_ended = ""
        self._released = False
        # Keyed by `id`, because a variable is not hashable.
        self._users: weakref.WeakValueDictionary[int, RemoteUser] = weakref.WeakValueDictionary()
        self._holders: weakref.WeakValueDictionary[int, Holder] = weakref.WeakValueDictionary()
        # Whether a parameter server that dies can be replaced; otherwise its death ends the connection.
        self.replaces_servers = False
        self._resources = _Resources(cluster)
        self._cancel_finalizer = background.finalize(self, self._resources.close_later)

    @property
    def ended(self) -> bool:
        """Whether the connection has failed or ended."""
        return bool(self._why_ended)

    def check(self) -> None:
        """Raises a one-line `ClusterError` if the connection has ended. Takes a few microseconds.

        Raises:
            ClusterError: it has ended; the message says why and when.
            TaskDiedError: this call found a parameter server dead; the message has the tail of the server's log.
        """
        if not self._why_ended and isinstance(self.cluster, LocalCluster):
            self._check_cluster(self.cluster)
        if self._why_ended:
            raise ClusterError(
                f"The strategy's cluster has ended: {self._why_ended}. Its models, variables and tables cannot be used "
                "any more; make a new strategy and build the model under it."
            )

    def _check_cluster(self, cluster: LocalCluster) -> None:
        """Fails the connection if the embedded cluster was stopped or a parameter server of it died."""
        # After `stop` and `start` the cluster runs again, but with new servers that hold none of our variables.
        if cluster.stops != self._stops:
            self.fail("its LocalCluster was stopped")
            return
        try:
            cluster.check()
        except TaskDiedError as died:
            # A worker holds no variables: `Losses` decides whether the other workers take over its work.
            if died.task is None or died.task[0] == jobs.PS:
                if died.task is not None and self.replaces_servers:
                    raise
                self.fail(str(died).partition(". The last lines")[0])
                raise

    def add_user(self, user: RemoteUser) -> None:
        """Registers `user`: its `release` is called when the connection ends, unless it was collected before."""
        self._users[id(user)] = user

    def add_holder(self, holder: Holder) -> None:
        """Registers `holder`: its `forget` is called when a task was started again."""
        self._holders[id(holder)] = holder

    def forget(self, device: str) -> None:
        """Drops the handles of things on a device, or makes the things anew, because its task was started again."""
        for holder in list(self._holders.values()):
            holder.forget(device)

    def add_pool(self, close: Callable[[], None]) -> None:
        """Registers a pool: `close` is called when the connection ends or is collected.

        Args:
            close: a bound method of the pool. It is held weakly, so the pool may be collected earlier.
        """
        self._resources.pools.append(weakref.WeakMethod(close))

    def fail(self, why: str) -> None:
        """Makes `check` raise from now on. Only the first reason is kept.

        Args:
            why: the reason, as a clause for the message: "`close()` was called".
        """
        self._why_ended = self._why_ended or f"{why}, at {time.strftime('%H:%M:%S')}"

    def release_users(self, why: str) -> None:
        """Does the first half of `end`: fails the connection and drops every remote resource of this process.

        Handles and functions are dropped while their servers still run. Dropped later, they would be sent to the
        servers of the next connection, which do not know them, and TensorFlow would log an error for each.

        Args:
            why: as for `fail`.
        """
        # This comes first, so that every thread, even one in the middle of a `fit`, gets an error from here on.
        self.fail(why)
        if self._released:
            return
        self._released = True
        self._resources.close_pools()
        if not self._is_answering():
            return
        for user in list(self._users.values()):
            user.release()
        # A model and its functions form reference cycles, which only the collector frees.
        gc.collect()

    def _is_answering(self) -> bool:
        """Whether servers can be told to drop what they hold. If one hangs, stops an embedded cluster first.

        TensorFlow waits for a server that hangs without a limit, and no other thread of Python runs meanwhile. Once
        the processes are killed, the same calls fail at once. Servers of a TF_CONFIG are not stopped from here.
        """
        if not isinstance(self.cluster, LocalCluster):
            return not reach.find_hung(self.cluster)
        if self.cluster.tasks and (hung := reach.find_hung(self.cluster.spec)):
            _LOG.warning("%s does not answer: the cluster is stopped without asking its servers.", ", ".join(hung))
            self._resources.stop_cluster()
        return True

    def finish(self, *, stop_cluster: bool = True) -> None:
        """Does the second half of `end`: closes the pools and stops the embedded cluster.

        Args:
            stop_cluster: False if the next connection uses the same embedded cluster.
        """
        if not stop_cluster:
            self._resources.keep_cluster()
        # Otherwise the collection of this connection would stop the cluster again, which may be running anew by then.
        self._cancel_finalizer()
        self._resources.close()

    def end(self, why: str) -> None:
        """Ends the connection and its embedded cluster. Does nothing if it has ended."""
        self.release_users(why)
        self.finish()


class _Current:
    """Holds a weak reference to the newest connection."""

    reference: Callable[[], Connection | None] = staticmethod(lambda: None)


def current() -> Connection | None:
    """Returns the connection that new variables belong to, or None before the first strategy."""
    return _Current.reference()


def add_user(user: RemoteUser) -> None:
    """Registers `user` with the current connection, if there is one; see `Connection.add_user`."""
    connection = current()
    if connection is not None:
        connection.add_user(user)


def add_holder(holder: Holder) -> None:
    """Registers `holder` with the current connection, if there is one; see `Connection.add_holder`."""
    connection = current()
    if connection is not None:
        connection.add_holder(holder)


def connect(cluster: LocalCluster | ClusterSpec, connect_tensorflow: Callable[[], None]) -> Connection:
    """Connects this program to a cluster and ends its earlier connection.

    Args:
        cluster: a running cluster.
        connect_tensorflow: connects TensorFlow's context to it.
    """
    earlier = current()
    if earlier is not None:
        if not earlier.ended:
            _LOG.info("A newer ParameterServerStrategy ends the one before it: a program has one cluster at a time.")
        earlier.release_users("a newer ParameterServerStrategy took its place")
    try:
        connect_tensorflow()
        connection = Connection(cluster)
        # A weak reference, so that a strategy that nobody uses any more is collected and ends its connection.
        _Current.reference = weakref.ref(connection)
        return connection
    finally:
        # Only now: TensorFlow has just said goodbye to the old servers, which must be running for that.
        if earlier is not None:
            earlier.finish(stop_cluster=earlier.cluster is not cluster)


def reconnect_tensorflow(spec: ClusterSpec) -> bool:
    """Moves TensorFlow's context from the cluster of an earlier connection to another cluster.

    TensorFlow's own function builds a new context. That leaks the chief's old gRPC server, which cannot be shut down
    (92 threads and 40 MB each time), and crashes the process when a variable of the old context is used. An update
    keeps the server and leaks only 4 idle threads.

    Args:
        spec: the addresses of a running cluster.

    Returns:
        Whether there was a connection to move. If not, TensorFlow must make the first one itself.
    """
    from tensorflow.python.eager import context  # no public name reaches the server definition

    before: ServerDef | None = context.context().get_server_def()
    # None means that this program was never connected; another job means that something other than tfps connected it.
    if before is None or before.job_name != jobs.CHIEF:
        return False
    context.context().update_server_def(_replace_cluster(before, spec))
    return True


def _replace_cluster(before: "ServerDef", spec: ClusterSpec) -> "ServerDef":
    """Returns the definition with the tasks of another cluster. The chief keeps its server, and so its address."""
    import tensorflow as tf

    chief = next(job.tasks[before.task_index] for job in before.cluster.job if job.name == jobs.CHIEF)
    moved = type(before)()
    moved.CopyFrom(before)
    moved.cluster.CopyFrom(tf.train.ClusterSpec(spec.as_dict() | {jobs.CHIEF: [chief]}).as_cluster_def())
    # An update cannot change the device filters: the first ones stay in force.
    moved.ClearField("cluster_device_filters")
    return moved
