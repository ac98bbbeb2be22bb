"""A program as TensorFlow's guides write it: servers of TensorFlow in this process, a resolver, both kinds of loop.

It prints the largest difference between the weights that `fit` trains and those of one process, and the accuracy of the
hand-written loop. The strategy is the only name of tfps.
"""

import os
import sys

import keras
import numpy as np
import tensorflow as tf

import tfps


def start_servers(ports):
    """Starts a server of TensorFlow for each port in this process; returns the resolver and the servers."""
    spec = tf.train.ClusterSpec(
        {"worker": [f"localhost:{ports[0]}"], "ps": [f"localhost:{port}" for port in ports[1:]]}
    )
    config = tf.compat.v1.ConfigProto()
    config.inter_op_parallelism_threads = 4
    tasks = [("worker", 0), *(("ps", index) for index in range(len(ports) - 1))]
    servers = [
        tf.distribute.Server(spec, job_name=job, task_index=index, config=config, protocol="grpc")
        for job, index in tasks
    ]
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc"), servers


def train_by_fit(strategy, folder):
    """`fit` with an endless dataset and the callbacks of a job that may be interrupted; returns the weights."""
    keras.utils.set_random_seed(4)
    draw = np.random.default_rng(4)
    ids, labels = draw.integers(0, 40, (64, 3)), draw.random((64, 1)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((ids, labels)).shuffle(64, seed=1, reshuffle_each_iteration=False)
    data = data.batch(16).repeat().prefetch(2)
    with strategy.scope():
        layers = [keras.layers.Embedding(40, 8), keras.layers.Flatten(), keras.layers.Dense(10), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,), dtype="int64"), *layers])
        model.compile(keras.optimizers.SGD(0.05), loss="mse", steps_per_execution=4)
    callbacks = [
        keras.callbacks.TensorBoard(log_dir=os.path.join(folder, "logs")),
        keras.callbacks.ModelCheckpoint(os.path.join(folder, "model.{epoch}.keras")),
        keras.callbacks.BackupAndRestore(os.path.join(folder, "backup")),
    ]
    model.fit(data, epochs=3, steps_per_epoch=8, callbacks=callbacks, verbose=0)
    assert int(model.optimizer.iterations) == 24
    assert sorted(name for name in os.listdir(folder) if name.endswith(".keras")) == [
        f"model.{i}.keras" for i in (1, 2, 3)
    ]
    return model.get_weights()


def train_by_hand(strategy):
    """A loop over a coordinator, with lookup layers in the input; returns the accuracy, which chance makes 0.5."""
    names = ["red", "green", "blue", "white"]
    with strategy.scope():
        features = keras.layers.StringLookup(num_oov_indices=1, vocabulary=names, mask_token=None)
        labels = keras.layers.StringLookup(num_oov_indices=0, vocabulary=["no", "yes"], mask_token=None)
        raw_features = keras.Input((3,), dtype="string", name="feature")
        feature_stage = keras.Model({"features": raw_features}, features(raw_features))
        raw_label = keras.Input((1,), dtype="string", name="label")
        label_stage = keras.Model({"label": raw_label}, labels(raw_label))
    draw = np.random.default_rng(4)
    chosen = draw.choice(names, (200, 3))
    answers = np.where((chosen == "red").any(1, keepdims=True), "yes", "no")

    def read(context):
        raw = tf.data.Dataset.from_tensor_slices({"features": chosen, "label": answers})
        staged = raw.map(lambda x: ({"features": feature_stage({"features": x["features"][None]})[0]},
                                    label_stage({"label": x["label"][None]})[0]))  # fmt: skip
        return staged.shuffle(200).batch(32).repeat()

    with strategy.scope():
        ids = keras.Input((3,), dtype="int64", name="ids")
        table = keras.layers.Embedding(features.vocabulary_size(), 64)
        pooled = keras.layers.GlobalAveragePooling1D()(table(ids))
        model = keras.Model({"features": ids}, keras.layers.Dense(1, activation="sigmoid")(pooled))
        optimizer = keras.optimizers.RMSprop(0.1)
        accuracy = keras.metrics.Accuracy()

    @tf.function
    def step(iterator):
        def replica(given, wanted):
            with tf.GradientTape() as tape:
                found = model(given, training=True)
                each = keras.losses.BinaryCrossentropy(reduction=None)(wanted, found)
                loss = tf.nn.compute_average_loss(each)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            accuracy.update_state(wanted, tf.cast(tf.greater(found, 0.5), tf.int64))
            return loss

        losses = strategy.run(replica, args=next(iterator))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    @tf.function
    def read_on_worker():
        return strategy.distribute_datasets_from_function(read)

    iterator = iter(coordinator.create_per_worker_dataset(read_on_worker))
    for _ in range(3):
        accuracy.reset_state()
        for _ in range(10):
            coordinator.schedule(step, args=(iterator,))
        coordinator.join()
    assert int(optimizer.iterations) == 30
    assert 0 < coordinator.schedule(step, args=(iterator,)).fetch() < 1
    return float(accuracy.result())


def main(folder, ports):
    here, there = os.path.join(folder, "here"), os.path.join(folder, "there")
    for path in (here, there):
        os.makedirs(path)
    alone = train_by_fit(tf.distribute.get_strategy(), here)
    resolver, servers = start_servers(ports)
    split = tf.distribute.experimental.partitioners.MinSizePartitioner(min_shard_bytes=256 << 10, max_shards=2)
    strategy = tfps.ParameterServerStrategy(resolver, variable_partitioner=split)
    together = train_by_fit(strategy, there)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(alone, together, strict=True))
    print(f"difference {difference:.2e} accuracy {train_by_hand(strategy):.3f}", flush=True)
    # TensorFlow has no way to stop a server in this process.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], [int(port) for port in sys.argv[2:]])
