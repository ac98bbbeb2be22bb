"""The embedded cluster with real processes: it serves, it names the dead, and it never outlives its chief."""

import os
import signal
import time

import pytest

from tfps.cluster import zygote_link
from tfps.cluster.local import LocalCluster
from tfps.errors import ClusterError, ClusterTimeoutError, ConfigError, TaskDiedError

TRAIN = """
from tfps.cluster.local import LocalCluster
cluster = LocalCluster(2, 2)
cluster.launch()
import tensorflow as tf
cluster.start()
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster.spec.resolver_spec(), rpc_layer="grpc")
strategy = tf.distribute.ParameterServerStrategy(resolver)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
with strategy.scope():
    first, second = tf.Variable(1.0), tf.Variable(0.0)
@tf.function
def step():
    second.assign_add(first)
for _ in range(50):
    coordinator.schedule(step)
coordinator.join()
print("sum", second.numpy(), first.device[:17], second.device[:17], flush=True)
print("left", *[task.pid for task in cluster.tasks], flush=True)
{end}
"""

HOLD = """
import os, sys, time
from tfps.cluster.local import LocalCluster
cluster = LocalCluster(1, 1)
cluster.start()
print("pids", *[task.pid for task in cluster.tasks], flush=True)
{end}
"""


def pids_in(output, word="pids"):
    line = next(line for line in output.splitlines() if line.startswith(word))
    return [int(pid) for pid in line.split()[1:]]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(1, 2) as started:
        yield started


@pytest.fixture
def own_zygote(monkeypatch, request):
    """Clusters of this test have a zygote of their own, which imports TensorFlow anew and may be killed."""
    monkeypatch.setenv("TF_CPP_VMODULE", f"{request.node.name.partition('[')[0]}=1")


@pytest.mark.parametrize("name", ["num_ps", "num_workers", "ps_threads", "worker_threads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_refuses_counts(name, value):
    rule = rf"`{name}` must be an integer of at least 1(, or None for the default)?\. Received: {value!r}"
    with pytest.raises(ConfigError, match=rule):
        LocalCluster(**{name: value})


def test_refuses_timeout():
    with pytest.raises(ConfigError, match="`start_timeout_s` must be a number above 0.*. Received: 0"):
        LocalCluster(start_timeout_s=0)


def test_spec_needs_a_start():
    with pytest.raises(ClusterError, match="`spec` needs a started cluster"):
        _ = LocalCluster().spec


def test_a_worker_that_died_starts_again_at_its_address():
    with LocalCluster(1, 1) as cluster:
        (before,) = (task for task in cluster.tasks if task.order.job == "worker")
        os.kill(before.pid, signal.SIGKILL)
        wait_until(lambda: not cluster.is_back("worker", 0))
        with pytest.raises(TaskDiedError):
            cluster.check()
        assert cluster.start_again("worker", 0) and cluster.start_again("worker", 0)  # the second changes nothing
        wait_until(lambda: cluster.is_back("worker", 0))
        (after,) = (task for task in cluster.tasks if task.order.job == "worker")
        assert after.endpoint == before.endpoint and after.pid != before.pid
        cluster.check()
        cluster.kill("worker", 0)
        wait_until(lambda: not cluster.is_back("worker", 0))


def wait_until(condition, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_tasks_run_apart_from_our_session(cluster, processes):
    assert [task.name for task in cluster.tasks] == ["ps 0", "worker 0", "worker 1"]
    assert cluster.spec.num_ps == 1 and cluster.spec.num_workers == 2
    for task in cluster.tasks:
        assert processes.is_alive(task.pid) and os.getsid(task.pid) != os.getsid(0)
    cluster.check()


def test_start_is_idempotent(cluster):
    before = cluster.tasks
    cluster.start()
    assert cluster.tasks == before


def test_a_fork_neither_stops_nor_keeps_the_cluster(cluster, processes):
    child = os.fork()
    if child == 0:
        cluster.stop()
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.3)
    assert len(processes.living([task.pid for task in cluster.tasks])) == 3
    cluster.check()


def test_dead_task_is_named_with_its_log(processes):
    with LocalCluster(1, 2) as cluster:
        victim = cluster.tasks[2]
        with open(victim.log_path, "a") as log:
            log.write("its last words\n")
        os.kill(victim.pid, signal.SIGKILL)
        assert processes.wait_until_gone([victim.pid])
        with pytest.raises(TaskDiedError) as caught:
            # The process that started the servers reports a death; its report may come a little after it.
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                cluster.check()
                time.sleep(0.1)
        others = [task.pid for task in cluster.tasks[:2]]
        assert len(processes.living(others)) == 2
    message = str(caught.value)
    assert message.startswith("worker 1 (process ") and "SIGKILL" in message and "its last words" in message
    assert processes.living(others) == []


def test_start_has_a_limit(tmp_path, left_behind, own_zygote):
    cluster = LocalCluster(1, 1, start_timeout_s=0.2, log_dir=str(tmp_path))
    with pytest.raises(ClusterTimeoutError, match=r"ps 0, worker 0 did not come up within 0.2 s"):
        cluster.start()
    assert left_behind() == []


def test_a_hung_task_is_named_and_the_others_stopped(tmp_path, left_behind, monkeypatch):
    os.mkfifo(tmp_path / "worker-0.log")  # nobody reads it: the worker hangs while it opens its log
    cluster = LocalCluster(1, 1, log_dir=str(tmp_path))
    began = time.monotonic()
    cluster.launch()
    while not cluster.tasks:
        cluster.check()
        assert time.monotonic() < began + 240
        time.sleep(0.05)
    monkeypatch.setenv("TFPS_START_TIMEOUT_S", str(time.monotonic() - began + 1))
    with pytest.raises(ClusterTimeoutError, match="^worker 0 did not come up within "):
        cluster.start()
    assert left_behind() == []


@pytest.fixture
def left_behind(processes):
    """The processes below this one that were not there before the test, as a function."""
    before = processes.descendants(os.getpid())
    return lambda: [pid for pid in processes.living(processes.descendants(os.getpid())) if pid not in before]


@pytest.mark.parametrize(
    "end",
    [
        "",
        pytest.param("cluster.stop()", marks=pytest.mark.slow),
        pytest.param("raise SystemExit(3)", marks=pytest.mark.slow),
    ],
)
def test_trains_and_ends_in_silence(run, end, processes):
    program = run(TRAIN.format(end=end))
    assert program.wait() == (3 if "SystemExit" in end else 0)
    output = program.output()
    assert "sum 50.0 /job:ps/replica:0 /job:ps/replica:0" in output
    assert processes.wait_until_gone(pids_in(output, "left"))
    # TensorFlow logs at level I, and at import that it registers CUDA's factories twice.
    lines = program.err.read_text().splitlines()
    after = "\n".join(line for line in lines if not line.startswith("I0000") and "factory" not in line)
    for word in ("Failed to", "Unable to", "heartbeat", "Aborted", "Traceback", "UNAVAILABLE", "Connection refused"):
        assert word not in after, after
    deadline = time.monotonic() + 120
    while (logs := list(program.out.parent.glob("tfps-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert logs == []  # the temporary logs went with the cluster


ENDINGS = {
    "return": ("", None, 0),
    "exception": ("raise KeyError('user')", None, 1),
    "hard exit": ("os._exit(5)", None, 5),
    "Ctrl-C": ("time.sleep(600)", signal.SIGINT, -signal.SIGINT),
    "terminated": ("time.sleep(600)", signal.SIGTERM, -signal.SIGTERM),
    "killed": ("time.sleep(600)", signal.SIGKILL, -signal.SIGKILL),
    "killed with a forked child": (
        "child = os.fork()\nif child: print('child', child, flush=True)\ntime.sleep(600)",
        signal.SIGKILL,
        -signal.SIGKILL,
    ),
}


@pytest.mark.parametrize(
    "ending",
    [pytest.param(e, marks=pytest.mark.slow if e in ("exception", "hard exit", "terminated") else ()) for e in ENDINGS],
)
def test_nothing_outlives_the_chief(run, ending, processes):
    end, number, status = ENDINGS[ending]
    program = run(HOLD.format(end=end))
    pids = pids_in(program.wait_for("pids "))
    if number is not None:
        pids += processes.descendants(program.process.pid)
        child = pids_in(program.wait_for("child"), "child") if "fork" in end else []
        assert len(processes.living(pids)) == len(pids)
        program.process.send_signal(number)
        pids = [pid for pid in pids if pid not in child]
    assert program.wait() == status
    assert processes.wait_until_gone(pids)
    if "fork" in end:
        os.kill(child[0], signal.SIGKILL)


def test_servers_survive_a_signal_to_the_foreground_group(cluster):
    # A Ctrl-C reaches every process of the terminal's foreground group; the servers are in another.
    assert all(os.getpgid(task.pid) != os.getpgid(0) for task in cluster.tasks)


def test_killed_zygote_takes_its_servers_along(processes, own_zygote, monkeypatch):
    quietened = []
    monkeypatch.setattr("tfps.cluster.tf_logging.quieten", lambda: quietened.append(True))
    with LocalCluster(1, 1) as cluster:
        pids = [task.pid for task in cluster.tasks]
        os.kill(cluster._group._link.pid, signal.SIGKILL)
        assert processes.wait_until_gone(pids)
        with pytest.raises(TaskDiedError, match="process that forks the servers"):
            cluster.check()
        assert quietened  # TensorFlow would log four lines a function, as after the death of a server


def test_restart_after_stop(cluster, processes):
    again = LocalCluster(1, 1)
    again.start()
    first = [task.pid for task in again.tasks]
    again.stop()
    assert processes.living(first) == []
    again.start()
    try:
        assert len(processes.living([task.pid for task in again.tasks])) == 2
    finally:
        again.stop()


def test_clusters_share_a_zygote_and_keep_their_logs_apart(tmp_path, processes):
    with (
        LocalCluster(1, 1, log_dir=str(tmp_path / "a")) as first,
        LocalCluster(1, 2, log_dir=str(tmp_path / "b")) as other,
    ):
        parents = {parent_of(task.pid) for task in first.tasks + other.tasks}
        assert parents == {first._group._link.pid}
        os.kill(other.tasks[2].pid, signal.SIGKILL)
        with pytest.raises(TaskDiedError, match="^worker 1 "):
            for _ in range(1200):
                other.check()
                time.sleep(0.1)
        first.check()
        other.stop()
        assert processes.living([task.pid for task in first.tasks]) == [task.pid for task in first.tasks]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["ps-0.log", "worker-0.log"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["ps-0.log", "worker-0.log", "worker-1.log"]


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def test_a_later_cluster_starts_without_an_import(processes):
    with LocalCluster(1, 1) as first:
        before = set(processes.descendants(os.getpid()))
        with LocalCluster(1, 2) as other:
            assert other._group._link is first._group._link
            new = set(processes.descendants(os.getpid())) - before
            assert new == {task.pid for task in other.tasks}  # forks of the zygote, which has TensorFlow


def test_a_zygote_that_died_is_started_again(processes, own_zygote):
    with LocalCluster(1, 1) as first:
        dead = first._group._link.pid
        os.kill(dead, signal.SIGKILL)
        assert processes.wait_until_gone([dead, *(task.pid for task in first.tasks)])
        with LocalCluster(1, 1) as second:
            second.check()
            assert second._group._link.pid != dead


def test_servers_run_in_the_directory_of_now(tmp_path, monkeypatch):
    with LocalCluster(1, 1) as first:
        monkeypatch.chdir(tmp_path)
        with LocalCluster(1, 1) as other:
            assert other._group._link is first._group._link
            assert os.readlink(f"/proc/{other.tasks[0].pid}/cwd") == str(tmp_path)


def test_a_variable_that_libraries_read_when_loaded_takes_a_new_zygote(monkeypatch):
    with LocalCluster(1, 1) as first:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
        with LocalCluster(1, 1) as other:
            assert other._group._link is not first._group._link
        first.check()


def test_an_idle_zygote_ends(monkeypatch, processes, own_zygote):
    monkeypatch.setattr(zygote_link, "IDLE_S", 0.1)
    with LocalCluster(1, 1) as cluster:
        pid = cluster._group._link.pid
        time.sleep(0.5)
        assert processes.is_alive(pid)
    assert processes.wait_until_gone([pid])
