"""The connection of this program to a cluster, from the construction of a strategy until it ends.

TensorFlow has one context a process and is connected to one cluster at a time. What was made under an earlier
connection (variables, iterators, traced functions) names devices that are no more, and TensorFlow crashes or hangs
where it is used. So everything made under a connection asks it first, and a connection that has ended says why.

A connection ends when its strategy is closed, when a newer strategy takes its place, when its `LocalCluster` is
stopped, when a parameter server of that dies, or when nobody holds it: neither strategy, nor model, nor variable.

Threading: `check` may be called from any thread. `Connection`, `connect` and `end` belong to the thread that makes
strategies; a connection that is collected is tidied up by `background`.
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
"""Seconds that variables which are collected with their connection have to leave their servers."""

_LOG = logging.getLogger("tfps")


class RemoteUser(Protocol):
    """Something that holds what is on other tasks: a variable, a traced function."""

    def release(self) -> None:
        """Lets go of it, as the connection ends. Called at most once; the cluster still lives."""
        ...


class _Resources:
    """What a connection ends: threads of this process, then the embedded cluster. Each part ends once.

    Apart from `Connection`, because it has to outlive one that is collected.
    """

    def __init__(self, cluster: LocalCluster | ClusterSpec) -> None:
        self.pools: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._stop = cluster.stop if isinstance(cluster, LocalCluster) else None

    def close_pools(self) -> None:
        """Closes the pools; a call under way is given some seconds to end."""
        while self.pools:
            close = self.pools.pop()()
            if close is not None:
                close()

    def stop_cluster(self) -> None:
        """Ends the embedded cluster; servers of a TF_CONFIG end with the program."""
        # Forgotten before the call, so that it is made once, whichever thread comes first.
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def keep_cluster(self) -> None:
        """Leaves the cluster to another connection."""
        self._stop = None

    def close_later(self) -> None:
        """Ends both, in the background: what was collected together with the connection first tells its servers so."""
        time.sleep(_PARTING_S)
        self.close()

    def close(self) -> None:
        """Ends both."""
        self.close_pools()
        self.stop_cluster()


class Connection:
    """A cluster as this program sees it.

    States: open -> failed (`fail`: a server died) -> ended (`let_go`, then `finish`). `check` raises in the last two;
    a failed one still has its threads and processes, because whoever waits for them has to see them fail.

    Args:
        cluster: the embedded cluster, or where the tasks of TF_CONFIG are.
    """

    def __init__(self, cluster: LocalCluster | ClusterSpec) -> None:
        self.cluster = cluster
        # How often the cluster had been stopped when this began, by which a later `stop` is seen.
        self._stops = cluster.stops if isinstance(cluster, LocalCluster) else 0
        self._why_ended = ""
        self._let_go = False
        # By id, as a variable has no hash.
        self._users: weakref.WeakValueDictionary[int, RemoteUser] = weakref.WeakValueDictionary()
        self._resources = _Resources(cluster)
        self._call_off = background.finalize(self, self._resources.close_later)

    @property
    def ended(self) -> bool:
        """Whether it cannot be used any more."""
        return bool(self._why_ended)

    def check(self) -> None:
        """Raises `ClusterError`, in one line, if the connection has ended. Costs a few microseconds.

        Raises:
            ClusterError: it has ended; the message says why and when.
            TaskDiedError: a parameter server is found dead by this call; the message has the tail of its log.
        """
        if not self._why_ended and isinstance(self.cluster, LocalCluster):
            self._look_at(self.cluster)
        if self._why_ended:
            raise ClusterError(
                f"The strategy's cluster has ended: {self._why_ended}. Its models, variables and tables cannot be used "
                "any more; make a new strategy and build the model under it."
            )

    def _look_at(self, cluster: LocalCluster) -> None:
        """Fails if the embedded cluster was stopped, or a server of it died that held variables."""
        # It may run again by now, with other servers: `stop`, then `start`.
        if cluster.stops != self._stops:
            self.fail("its LocalCluster was stopped")
            return
        try:
            cluster.check()
        except TaskDiedError as died:
            # Of a worker the variables are still there; `Losses` decides whether others do its work.
            if died.task is None or died.task[0] == jobs.PS:
                self.fail(str(died).partition(". The last lines")[0])
                raise

    def add_user(self, user: RemoteUser) -> None:
        """Has `user.release` called when the connection ends, unless `user` is gone by then."""
        self._users[id(user)] = user

    def add_pool(self, close: Callable[[], None]) -> None:
        """Has `close` called when the connection ends or is collected.

        Args:
            close: a method of a pool, which may be collected before.
        """
        self._resources.pools.append(weakref.WeakMethod(close))

    def fail(self, why: str) -> None:
        """Makes `check` raise from now on; the first reason counts.

        Args:
            why: a clause for the message: "`close()` was called".
        """
        self._why_ended = self._why_ended or f"{why}, at {time.strftime('%H:%M:%S')}"

    def let_go(self, why: str) -> None:
        """The first half of `end`: it fails, and nothing of this process holds anything on its servers any more.

        Handles and functions are dropped while their servers live. If they were dropped later, TensorFlow would ask
        the servers of the next connection to drop them, which know nothing of them, and log an error for each.
        """
        # First of all: whoever asks from now on is refused, also a thread in the midst of a `fit`.
        self.fail(why)
        if self._let_go:
            return
        self._let_go = True
        self._resources.close_pools()
        if not self._is_answering():
            return
        for user in list(self._users.values()):
            user.release()
        # A model and its functions are cycles; without this they would be dropped some time later.
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
        """The second half of `end`.

        Args:
            stop_cluster: whether an embedded cluster is stopped; not where the next connection uses it.
        """
        if not stop_cluster:
            self._resources.keep_cluster()
        # Otherwise the cluster would be stopped again when the connection is collected, maybe a restarted one.
        self._call_off()
        self._resources.close()

    def end(self, why: str) -> None:
        """Ends the connection and its embedded cluster. Does nothing if it has ended."""
        self.let_go(why)
        self.finish()


class _Current:
    """The newest connection, as long as somebody holds it."""

    reference: Callable[[], Connection | None] = staticmethod(lambda: None)


def current() -> Connection | None:
    """The connection that variables made now belong to; None before the first strategy."""
    return _Current.reference()


def add_user(user: RemoteUser) -> None:
    """Has `user.release` called when the connection of now ends; see `Connection.add_user`."""
    connection = current()
    if connection is not None:
        connection.add_user(user)


def connect(cluster: LocalCluster | ClusterSpec, connect_tensorflow: Callable[[], None]) -> Connection:
    """Connects this program to a cluster, and ends the connection it had.

    Args:
        cluster: that is up.
        connect_tensorflow: makes TensorFlow's context know it.
    """
    earlier = current()
    if earlier is not None:
        if not earlier.ended:
            _LOG.info("A newer ParameterServerStrategy ends the one before it: a program has one cluster at a time.")
        earlier.let_go("a newer ParameterServerStrategy took its place")
    try:
        connect_tensorflow()
        connection = Connection(cluster)
        # Weak, so that a strategy that nobody holds ends.
        _Current.reference = weakref.ref(connection)
        return connection
    finally:
        if earlier is not None:  # after TensorFlow has left its servers, which it does politely while they live
            earlier.finish(stop_cluster=earlier.cluster is not cluster)


def reconnect_tensorflow(spec: ClusterSpec) -> bool:
    """Moves TensorFlow's context from the cluster of a connection before this one to another cluster.

    TensorFlow's own way builds the context anew. That leaves the old gRPC server of the chief behind (92 threads and
    40 MB each time, as it cannot be shut down), and crashes the process when a variable of the old context is used. An
    update keeps the server; TensorFlow leaves 4 idle threads behind for each.

    Args:
        spec: of a cluster that is up.

    Returns:
        Whether there was a connection to move; if not, TensorFlow has to make the first one itself.
    """
    from tensorflow.python.eager import context  # no public name reaches the server definition

    before: ServerDef | None = context.context().get_server_def()
    # None: this program was never connected. Another job: it was connected by something else than a strategy of ours.
    if before is None or before.job_name != jobs.CHIEF:
        return False
    context.context().update_server_def(_moved(before, spec))
    return True


def _moved(before: "ServerDef", spec: ClusterSpec) -> "ServerDef":
    """The definition with the tasks of another cluster; the chief keeps its address, as it keeps its server."""
    import tensorflow as tf

    chief = next(job.tasks[before.task_index] for job in before.cluster.job if job.name == jobs.CHIEF)
    moved = type(before)()
    moved.CopyFrom(before)
    moved.cluster.CopyFrom(tf.train.ClusterSpec(spec.as_dict() | {jobs.CHIEF: [chief]}).as_cluster_def())
    moved.ClearField(
        "cluster_device_filters"
    )  # those of the first definition stay, by task; an update cannot change them
    return moved
