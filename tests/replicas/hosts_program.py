"""One worker of `MultiWorkerMirroredStrategy`, or one device: trains, and saves what it has learnt.

    python -m tests.replicas.hosts_program FOLDER WHAT INDEX PORTS DEVICES

It is a program because a worker is one process, and logical devices have to be set before TensorFlow starts.
"""

import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import tfps
from tests.replicas.small_model import BATCH, build, clicks, state_of
from tfps.cluster.doors import listeners


def learn(model, folder, name):
    x, y = clicks()
    history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, validation_data=(x, y)).history
    # Every worker names the same file. The chief alone writes it, and it is there when `save` returns.
    model.save(folder / "saved.keras")
    assert (folder / "saved.keras").exists()
    predictions = model.predict(x, batch_size=BATCH, verbose=0)
    # Shuffled by each worker, and still every example once: the mean of 0 to 98 is 49.
    values = np.arange(99, dtype="float32")[:, None]
    mean = keras.metrics.MeanMetricWrapper(lambda true, _: true, name="mean")
    with tf.distribute.get_strategy().scope() if name == "one" else model._distribute_strategy.scope():
        counter = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        counter.compile("sgd", "mse", metrics=[mean])
    means = counter.fit(values, values, batch_size=8, epochs=2, verbose=0).history["mean"]
    logs = {key: [float(value) for value in values] for key, values in history.items()}
    (folder / f"{name}.json").write_text(
        json.dumps({"logs": logs, "means": means, "steps": int(model.optimizer.iterations)})
    )
    np.savez(folder / f"{name}.npz", predictions, *state_of(model))


def uneven(model, folder, name):
    """Each worker has an input of its own, of another length."""
    x, y = clicks()
    count = 50 if name == "worker 0" else 23
    data = tf.data.Dataset.from_tensor_slices((tuple(one[:count] for one in x), y[:count])).batch(10)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    losses = [model.evaluate(data.with_options(options), verbose=0)[0]]
    model.fit(data.with_options(options), verbose=0)
    (folder / f"{name}.json").write_text(json.dumps({"losses": losses, "steps": int(model.optimizer.iterations)}))


def restart(model, folder, name):
    """Ends in the middle of a run of four epochs if there is no backup yet."""
    x, y = clicks()
    begun = (folder / "backup").exists()
    epochs = []

    def on_epoch_end(epoch, logs):
        epochs.append(epoch)
        if epoch == 1 and not begun:
            os._exit(7)

    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    calls = [backup, keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)]
    model.fit(x, y, batch_size=BATCH, epochs=4, shuffle=False, verbose=0, callbacks=calls)
    assert not (folder / "backup").exists()
    np.savez(folder / f"{name}.npz", np.array(epochs), *state_of(model))


def whole(model, folder, name):
    """What `restart` should end with."""
    x, y = clicks()
    model.fit(x, y, batch_size=BATCH, epochs=4, shuffle=False, verbose=0)
    np.savez(folder / f"{name}.npz", np.array([2, 3]), *state_of(model))


def endless(model, folder, name):
    x, y = clicks()
    first = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: (folder / f"{name}.begun").touch())
    model.fit(x, y, batch_size=BATCH, epochs=1_000_000, verbose=0, callbacks=[first])


def main():
    folder, what, index, ports, devices = sys.argv[1:]
    folder, ports, devices = pathlib.Path(folder), ports.split(","), int(devices)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    if index == "one":
        strategy, name = tfps.OneDeviceStrategy(dense_tables_bytes=0), "one"
    else:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": int(index)}})
        strategy, name = tfps.MultiWorkerMirroredStrategy(dense_tables_bytes=0), f"worker {index}"
        assert strategy.num_replicas_in_sync == len(ports) * devices
        doors = listeners.own_listeners(int(ports[int(index)]))
        assert doors and not any(door.is_open_to_all for door in doors), doors
    with strategy.scope():
        # A sum, because then the numbers of examples cross between the hosts in the forward pass too.
        model = build(keras.optimizers.Adagrad(0.1), keras.losses.BinaryCrossentropy(reduction="sum"))
    globals()[what](model, folder, name)


if __name__ == "__main__":
    main()
