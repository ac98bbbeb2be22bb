"""Trains each case on one device and on two logical devices, and prints how much the results differ, as JSON.

It is a program because logical devices have to be set before TensorFlow starts.
"""

import json
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import tfps
from tests.replicas.small_model import BATCH, build, clicks, difference, has_reduction, log_difference, state_of

optimizers = keras.optimizers


OUTSIDE = []
"""Metrics that `main` makes outside of any scope."""
OUTSIDE_OPTIMIZERS = []
"""The same for optimizers."""


class OwnStep(keras.Model):
    """Logs a value, a metric by another name, and a mix of both."""

    def train_step(self, data):
        logs = super().train_step(data)
        examples = keras.ops.cast(keras.ops.shape(data[1])[0], "float32")
        own = keras.ops.mean(keras.ops.cast(data[0][0], "float32"))
        return {"loss": logs["loss"], "own": own, "renamed": logs["auc"], "mixed": logs["auc"] + 0.0 * examples + own}


def own_step(**compiled):
    model = build(optimizers.SGD(0.1))
    inner = OwnStep(model.inputs, model.outputs)
    inner.compile(optimizers.SGD(0.1), "binary_crossentropy", metrics=["auc"], **compiled)
    return inner


class TwoOptimizers(keras.Model):
    """A step with a loss and a tape of its own, and an optimizer for each half."""

    def train_step(self, data):
        table, *others = self.trainable_weights
        with tf.GradientTape(persistent=True) as tape:
            loss = keras.ops.mean(keras.ops.square(self(data[0], training=True)[:, 0] - data[1]))
        self.optimizer.apply([tape.gradient(loss, table)], [table])
        self.second.apply(tape.gradient(loss, others), others)
        return {"loss": loss}


def two_optimizers():
    model = build(optimizers.SGD(0.1))
    inner = TwoOptimizers(model.inputs, model.outputs)
    # Keras makes an RMSprop itself, and the model gets an optimizer after `compile`.
    inner.compile()
    inner.second = OUTSIDE_OPTIMIZERS.pop()
    return inner


class AverageLoss(keras.Model):
    """A step that is written for the strategies of TensorFlow: it divides its losses for them."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            errors = keras.ops.square(self(data[0], training=True)[:, 0] - data[1])
            loss = tf.nn.compute_average_loss(errors, global_batch_size=BATCH) + tf.nn.compute_average_loss(errors)
            squares = [tf.reduce_sum(tf.square(weights)) for weights in self.trainable_weights[1:]]
            loss += tf.nn.scale_regularization_loss(0.01 * tf.add_n(squares))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def average_loss():
    model = build(optimizers.SGD(0.1))
    inner = AverageLoss(model.inputs, model.outputs)
    inner.compile(optimizers.SGD(0.1))
    return inner


class SquaredOutput(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred), -1)


def masked():
    keras.utils.set_random_seed(1)
    inputs = [keras.Input((4,), dtype="int64"), keras.Input((3,))]
    rows = keras.layers.Embedding(50, 8, mask_zero=True)(inputs[0] // 8)
    model = keras.Model(inputs, keras.layers.Dense(1)(rows))
    model.compile(optimizers.SGD(0.1), SquaredOutput())
    return model


def reduced(reduction):
    return lambda: build(optimizers.SGD(0.01), keras.losses.BinaryCrossentropy(reduction=reduction))


def accumulating():
    return build(optimizers.SGD(0.1, gradient_accumulation_steps=2))


def scaled():
    return build(optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=8.0))


SETS = {
    "momentum": lambda: build(optimizers.SGD(0.1, momentum=0.9)),
    # A large epsilon, because where a gradient is noise alone Adam would make a full step of it.
    "adamw": lambda: build(optimizers.AdamW(0.01, weight_decay=0.1, epsilon=0.1)),
    "eager": lambda: build(optimizers.SGD(0.1), run_eagerly=True),
    "accumulation": accumulating,
    "metric from outside": lambda: build(optimizers.SGD(0.1), metrics=[OUTSIDE.pop()]),
    "own step": own_step,
    "own loss, two optimizers": two_optimizers,
    "masked": masked,
}
MORE = {
    "adagrad": lambda: build(optimizers.Adagrad(0.1)),
    "rmsprop": lambda: build(optimizers.RMSprop(0.01, epsilon=0.1)),
    "nadam": lambda: build(optimizers.Nadam(0.01, epsilon=0.1)),
    "ftrl": lambda: build(optimizers.Ftrl(0.1)),
    "without a rule": lambda: build(optimizers.Adafactor(0.01)),
    "clipnorm": lambda: build(optimizers.Adagrad(0.1, clipnorm=0.01)),
    "clipvalue": lambda: build(optimizers.Adagrad(0.1, clipvalue=0.001)),
    "several steps": lambda: build(optimizers.SGD(0.1), steps_per_execution=4),
    "global clipnorm": lambda: build(optimizers.Adagrad(0.1, global_clipnorm=0.01)),
    "loss scale": scaled,
    "average loss": average_loss,
    "sum": reduced("sum"),
    "averages": lambda: build(optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=3)),
}
"""Cases that only the slow test looks at."""


def train(strategy, make, **options):
    with strategy.scope():
        model = make()
    x, y = clicks()
    history = model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, **options).history
    return model, history


def compare(make, repeated_ids="sum", dense_tables_bytes=0, **options):
    settings = {"repeated_ids": repeated_ids, "dense_tables_bytes": dense_tables_bytes}
    one, alone = train(tfps.OneDeviceStrategy("CPU:0", **settings), make, **options)
    two, together = train(tfps.MirroredStrategy(["CPU:0", "CPU:1"], **settings), make, **options)
    return {
        "state": difference(state_of(one), state_of(two)),
        "logs": log_difference(alone, together),
        "names": sorted(together),
    }


def read():
    """What `evaluate` and `predict` return."""
    strategies = [tfps.OneDeviceStrategy("CPU:0"), tfps.MirroredStrategy(["CPU:0", "CPU:1"])]
    x, y = clicks()
    found = []
    for strategy in strategies:
        with strategy.scope():
            model = build("sgd")
        found.append([model.predict(x, verbose=0), *model.evaluate(x, y, verbose=0)])
        found[-1] += [*model.train_on_batch(x, y), *model.test_on_batch(x, y), model.predict_on_batch(x)]
    return {"state": difference(*found), "names": ["loss"]}


def refused():
    """The messages of what several devices would compute otherwise than one."""
    strategy = tfps.MirroredStrategy(["CPU:0", "CPU:1"])
    layers, (x, y) = keras.layers, clicks()
    foreign = build("sgd")
    with strategy.scope():
        stateful = keras.Sequential([keras.Input((4, 1), batch_size=5), layers.GRU(2, stateful=True), layers.Dense(1)])
        stateful.compile("sgd", "mse")
        attempts = [
            lambda: stateful.fit(x[0][..., None], y, batch_size=5, verbose=0),
            lambda: reduced(None)().fit(x, y, verbose=0),
            lambda: foreign.evaluate(x, y, verbose=0),
        ]
        messages = []
        for attempt in attempts:
            try:
                attempt()
            except tfps.errors.UnsupportedError as error:
                messages.append(str(error))
    return messages


def served():
    """Saves on servers and loads on two devices, and the other way; the next step is the same on both."""
    servers = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=1), dense_tables_bytes=0)
    mirrored = tfps.MirroredStrategy(["CPU:0", "CPU:1"], dense_tables_bytes=0)
    x, y = clicks()
    found = []
    for first, second in ((servers, mirrored), (mirrored, servers)):
        with first.scope():
            model = build(optimizers.Adam(0.01, epsilon=0.1))
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/saved.keras")
            with second.scope():
                loaded = keras.models.load_model(f"{folder}/saved.keras")
        read = difference(state_of(model), state_of(loaded))
        for one in (model, loaded):
            one.fit([part[:BATCH] for part in x], y[:BATCH], batch_size=BATCH, verbose=0)
        found.append({"read": read, "state": difference(state_of(model), state_of(loaded))})
    servers.close()
    return found


def copies_of(variable):
    return [component.numpy() for component in variable._value.values]


def of_two_devices():
    """What only several devices show: one epoch of any input, equal copies, different random numbers."""
    strategy = tfps.MirroredStrategy(["CPU:0", "CPU:1"], dense_tables_bytes=0)
    with strategy.scope():
        model = build(optimizers.Adagrad(0.1), normalization=True)
        noise = keras.Sequential([keras.Input((400,)), keras.layers.Dropout(0.5, seed=1)])
    x, y = clicks()
    seen = tf.data.Dataset.from_generator(
        lambda: (((x[0][i : i + 10], x[1][i : i + 10]), y[i : i + 10]) for i in range(0, 61, 10)),
        output_signature=((tf.TensorSpec((None, 4), tf.int64), tf.TensorSpec((None, 3))), tf.TensorSpec((None,))),
    )
    model.fit(seen, epochs=2, verbose=0)
    iterations = int(model.optimizer.iterations)
    # Shorter than the user says.
    short = model.fit(seen, steps_per_epoch=9, verbose=0).history
    short = [sorted(short), int(model.optimizer.iterations) - iterations]
    # The last batch has one example, so the second replica has none.
    model.fit([one[:33] for one in x], y[:33], batch_size=8, epochs=1, verbose=0, shuffle=False)
    finite = all(np.isfinite(one).all() for one in model.get_weights())
    variables = [*model.variables, *model.optimizer.variables]
    apart = max(float(np.abs(a - b).max()) for a, b in map(copies_of, filter(_is_mirrored, variables)))

    @tf.function
    def draw():
        from tfps.replicas.step import ReplicaStep, tracing

        def one():
            with tracing(ReplicaStep(tf.constant(1.0))):
                return noise(tf.ones([1, 400]), training=True)

        return strategy.experimental_local_results(strategy.run(one))

    first, second = draw()
    return {
        "iterations": iterations,
        "short": short,
        "finite": finite,
        "copies": apart,
        "moved": float(np.abs(model.get_layer("normalization").moving_mean.numpy()).max()),
        "masks": float(np.mean(first.numpy() != second.numpy())),
    }


def _is_mirrored(variable):
    return isinstance(variable._value, tf.distribute.DistributedValues) and variable._value.dtype.is_floating


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    OUTSIDE.extend([keras.metrics.AUC(name="auc"), keras.metrics.AUC(name="auc")])
    OUTSIDE_OPTIMIZERS.extend([optimizers.SGD(0.1, momentum=0.9), optimizers.SGD(0.1, momentum=0.9)])
    if "--served" in sys.argv:
        results = served()
    elif "--more" in sys.argv:
        results = {name: compare(make) for name, make in MORE.items()}
    else:
        results = {name: compare(make) for name, make in SETS.items()}
        results["each"] = compare(SETS["adamw"], repeated_ids="each")
        results["small tables"] = compare(SETS["adamw"], dense_tables_bytes=1 << 20)
        weights = np.random.default_rng(1).random(len(clicks()[1]))
        results["weights, validation"] = compare(SETS["momentum"], sample_weight=weights, validation_split=0.2)
        if has_reduction("mean_with_sample_weight"):
            results["mean by weight"] = compare(reduced("mean_with_sample_weight"), sample_weight=weights)
        results["reading"] = read()
        results["refused"] = refused()
        results["two devices"] = of_two_devices()
    print("result: " + json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
