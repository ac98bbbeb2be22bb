"""How a strategy ends, whatever ends it: its cluster with it, and what was made under it says so."""

import pytest
import tensorflow as tf

PRELUDE = """
import contextlib, gc, os, signal, sys, threading, time
import keras, numpy as np, tensorflow as tf, tfps
from tfps.errors import ClusterError

x, y = np.arange(64), np.ones((64, 1), "float32")

def build(strategy):
    with strategy.scope():
        ids = keras.Input((), dtype="int64")
        model = keras.Sequential([ids, keras.layers.Embedding(100, 4), keras.layers.Dense(1)])
        model.compile("adagrad", "mse")
    return model

def train(model):
    model.fit(x, y, batch_size=8, verbose=0)
    return model

def below(pid):
    "The processes under this one that live."
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent = open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found += [int(entry), *below(int(entry))]
    return found

def wait_until(condition, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()

def ended(pids):
    return wait_until(lambda: not set(pids) & set(below(os.getpid())))
"""

ENDINGS = (
    PRELUDE
    + """
def uses(strategy, model):
    kernel = model.layers[1].kernel
    def scope():
        with strategy.scope():
            pass
    def plain_variable():
        with strategy.scope():
            tf.Variable(1.0)
    return {
        "fit": lambda: train(model), "evaluate": lambda: model.evaluate(x, y, verbose=0),
        "predict": lambda: model.predict(x, verbose=0), "train_on_batch": lambda: model.train_on_batch(x, y),
        "test_on_batch": lambda: model.test_on_batch(x, y), "predict_on_batch": lambda: model.predict_on_batch(x),
        "get_weights": model.get_weights, "set_weights": lambda: model.set_weights(weights),
        "save": lambda: model.save(os.path.join(os.environ["TMPDIR"], "model.keras")),
        "save_weights": lambda: model.save_weights(os.path.join(os.environ["TMPDIR"], "model.weights.h5")),
        "table": lambda: model.layers[0].embeddings.numpy(), "dense": kernel.numpy,
        "assign": lambda: kernel.assign(tf.ones((4, 1))),
        "iterations": model.optimizer.iterations.numpy, "run": lambda: strategy.run(lambda: 1), "scope": scope,
        "plain variable": plain_variable, "with": strategy.__enter__, "check": strategy.check,
    }

def make():
    strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(1, 1), dense_tables_bytes=0)
    return strategy, train(build(strategy)), [task.pid for task in strategy.cluster.tasks]

def check_all(ending, strategy, model):
    for name, use in uses(strategy, model).items():
        began = time.monotonic()
        try:
            use()
        except ClusterError as error:
            seconds, lines = time.monotonic() - began, str(error).splitlines()
            print(ending, "|", name, "|", len(lines), "|", lines[0], flush=True)
            assert seconds < 20, (name, seconds)
        else:
            raise SystemExit(f"{ending}: {name} did not fail")

strategy, model, pids = make()
weights = model.get_weights()
strategy.close()
assert ended(pids)
check_all("closed", strategy, model)
strategy.close()

strategy, model, pids = make()
with strategy:
    pass
assert ended(pids)
check_all("with", strategy, model)

strategy, model, pids = make()
newer, trained, _ = make()
assert ended(pids)
check_all("replaced", strategy, model)
train(trained)
assert trained.optimizer.iterations.numpy() == 16

newer.cluster.stop()
check_all("stopped", newer, trained)

strategy, model, pids = make()
os.kill(pids[0], signal.SIGKILL)
wait_until(lambda: pids[0] not in below(os.getpid()))
time.sleep(0.5)
check_all("died", strategy, model)
strategy.close()
assert ended(pids)

strategy, model, _ = make()
assert np.isfinite(model.evaluate(x, y, verbose=0))
"""
)

REASONS = {
    "closed": "`close()` was called, at ",
    "with": "its `with` block ended, at ",
    "replaced": "a newer ParameterServerStrategy took its place, at ",
    "stopped": "its LocalCluster was stopped, at ",
    "died": "ps 0 (process ",
}


def test_every_use_of_an_ended_strategy_says_why_in_one_line(run_program):
    said = [line.split(" | ") for line in run_program(ENDINGS)]
    assert {line[0] for line in said} == set(REASONS) and len(said) == 5 * 19
    for number, (ending, name, lines, text) in enumerate(said):
        first_of_a_death = ending == "died" and said[number - 1][0] != "died"  # it has the tail of the server's log
        assert lines == "1" or first_of_a_death, (ending, name)
        assert REASONS[ending] in text, (ending, name, text)
        assert first_of_a_death or text.startswith("The strategy's cluster has ended: "), text


CELL = (
    PRELUDE
    + """
cell = '''
strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(1, 1))
model = build(strategy)
train(model)
'''
for repetition in range(8):
    exec(cell)
    threads = len(os.listdir("/proc/self/task"))
    print(len(below(os.getpid())), threading.active_count(), threads, len(os.listdir("/proc/self/fd")), flush=True)
"""
)


def test_a_cell_that_is_run_again_leaves_nothing_of_the_run_before(run_program):
    processes, python_threads, threads, files = zip(
        *(map(int, line.split()) for line in run_program(CELL)), strict=True
    )
    assert set(processes) == {3}  # the zygote, a parameter server, a worker
    assert max(python_threads) - python_threads[1] <= 0
    # TensorFlow leaves 4 threads behind for each cluster that its context has left; the whole context was 92.
    assert threads[7] - threads[1] <= 6 * 4 + 8
    # Before version 2.20 it also leaves what two threads of gRPC wait with, two files each.
    left = 4 if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 20) else 0
    assert files[7] - files[1] <= 6 * left + 2


DROPPED = (
    PRELUDE
    + """
from tfps.cluster import connection

def use_and_drop():
    strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(1, 1))
    model = build(strategy)
    model.predict(x, verbose=0)
    return [task.pid for task in strategy.cluster.tasks], model

pids, model = use_and_drop()
gc.collect()
time.sleep(2)
assert set(pids) <= set(below(os.getpid()))  # the model holds it
assert len(model.get_weights()) == 3
if sys.argv[1] == "thread":
    gc.disable()
    thread = threading.Thread(target=gc.collect)
    model = None
    thread.start()
    thread.join()
else:
    model = None
    gc.collect()
assert connection.current() is None
assert ended(pids)
assert tf.reduce_sum(tf.ones(3)).numpy() == 3
print("tidy")
"""
)


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_strategy_that_nobody_holds_ends_its_cluster(run_program, where):
    assert run_program(DROPPED, where)[-1] == "tidy"


FAILED = (
    PRELUDE
    + """
from tfps.errors import ConfigError
from tfps.strategy import start as module

def check(error, make):
    try:
        make()
    except error as caught:
        print(type(caught).__name__, str(caught).splitlines()[:1])
    else:
        raise SystemExit("it did not fail")
    assert wait_until(lambda: below(os.getpid()) == []), below(os.getpid())

os.environ["TFPS_START_TIMEOUT_S"] = "soon"
check(ConfigError, tfps.LocalCluster)
check(ConfigError, tfps.ParameterServerStrategy)
del os.environ["TFPS_START_TIMEOUT_S"]
cluster = tfps.LocalCluster(1, 1)
os.environ["TFPS_START_TIMEOUT_S"] = "soon"
check(ConfigError, cluster.start)
os.environ["TFPS_START_TIMEOUT_S"] = "300"
check(ClusterError, lambda: tfps.ParameterServerStrategy(tfps.LocalCluster(1, 1, start_timeout_s=0.3)))

def interrupted():
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    tfps.ParameterServerStrategy(tfps.LocalCluster(1, 1))
check(KeyboardInterrupt, interrupted)

connect = module.connect
def failing(*arguments):
    raise MemoryError("no room")
module.connect = failing
try:
    tfps.ParameterServerStrategy(cluster)
except MemoryError:
    assert cluster.tasks == () and len(below(os.getpid())) == 1  # the zygote, for a cluster to come
module.connect = connect
with tfps.ParameterServerStrategy(cluster) as strategy:
    train(build(strategy))
print("trained")
"""
)


def test_a_start_that_fails_leaves_no_process(run_program):
    lines = run_program(FAILED)
    kinds = [line.split()[0] for line in lines]
    assert kinds == [*["ConfigError"] * 3, "ClusterTimeoutError", "KeyboardInterrupt", "trained"]
