"""The contenders that train the CTR-DNN on the same data: tfps, stock TensorFlow, one process, and a lower bound."""

import abc
import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

from benchmarks.crossings import crossings
from benchmarks.ctr_setup import Setup
from benchmarks.ctr_task import CtrTask, adagrad, build_model, dataset, mlp_widths
from benchmarks.meter import Meter

_TRAINED_STEPS = 1_000_000  # young models are trained by fewer workers, in shorter closures and windows
_UNSPLIT_BYTES = 1 << 20  # stock TensorFlow's partitioner would split dense layers too, which slows it down


class Contender(abc.ABC):
    """Builds its model in the constructor; `train` may then be called any number of times.

    Args:
        task: the work.
        num_ps: parameter servers.
        num_workers: workers.
    """

    def __init__(self, task: Any, num_ps: int, num_workers: int) -> None:
        self.task = task
        self.cluster = self._start(num_ps, num_workers)

    @abc.abstractmethod
    def train(self, steps: int, meter: Meter) -> Any:
        """Trains `steps` batches over all workers, with the meter running from the first to the end of the last."""

    def processes(self) -> dict[str, list[int]]:
        """Process ids by role."""
        roles: dict[str, list[int]] = {"chief": [os.getpid()], "workers": [], "servers": []}
        for task in self.cluster.tasks if self.cluster else ():
            roles["servers" if task.order.job == "ps" else "workers"].append(task.pid)
        return roles

    def traffic(self) -> dict[str, float]:
        """Remote tensors a step, where they can be counted."""
        return {}

    def _start(self, num_ps: int, num_workers: int) -> Any:
        import tfps

        return tfps.LocalCluster(num_ps, num_workers)


class Tfps(Contender):
    """Plain Keras 3 in the scope of `tfps.ParameterServerStrategy`; on the cluster of TF_CONFIG where that is set.

    Args:
        task: the work.
        num_ps: parameter servers.
        num_workers: workers.
        setup: the mode, where it is not the default.
    """

    growing = False
    """Whether the tables grow."""

    def __init__(self, task: CtrTask, num_ps: int, num_workers: int, setup: Setup | None = None) -> None:
        super().__init__(task, num_ps, num_workers)
        import keras

        from tfps.training import traced_closures

        # As in a run that has lasted for a while: graphs of long turns, and a model that all workers train.
        traced_closures.SHORT_STEPS = 0
        setup = setup or Setup(num_ps, num_workers)
        with setup.strategy(self.cluster).scope():
            self._model = build_model(task, keras, self.growing)
            self._model.compile(optimizer=setup.optimizer(adagrad(keras.optimizers)), loss="binary_crossentropy")
        self._model.optimizer.iterations.assign(_TRAINED_STEPS)
        self._fit = Fit(self._model, keras, dataset(task))

    def train(self, steps: int, meter: Meter) -> None:
        self._fit(steps, meter)

    def traffic(self) -> dict[str, float]:
        return crossings(self._model)

    def _start(self, num_ps: int, num_workers: int) -> Any:
        return None if os.environ.get("TF_CONFIG") else super()._start(num_ps, num_workers)


class Growing(Tfps):
    """The same with `tfps.layers.DynamicEmbedding`, whose ids happen to be row numbers."""

    growing = True


class OwnLoop(Contender):
    """A hand-written loop over TensorFlow's ClusterCoordinator, on `tfps.ParameterServerStrategy`."""

    def __init__(self, task: CtrTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import keras

        import tfps

        strategy = tfps.ParameterServerStrategy(self.cluster)
        with strategy.scope():
            model, optimizer = build_model(task, keras), adagrad(keras.optimizers)
            optimizer.build(model.trainable_variables)
        step = _loop_step(strategy, model, optimizer, keras.losses.BinaryCrossentropy(reduction="none"))
        self._loop = Loop(strategy, step, lambda: dataset(task))

    def train(self, steps: int, meter: Meter) -> None:
        self._loop(steps, meter)


class Local(Contender):
    """Plain Keras 3 in one process, with no strategy."""

    def __init__(self, task: CtrTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import keras

        self._fit = Fit(_compiled(task, keras, keras.optimizers), keras, dataset(task))

    def _start(self, num_ps: int, num_workers: int) -> Any:
        return None

    def train(self, steps: int, meter: Meter) -> None:
        self._fit(steps, meter)


class StockFit(Contender):
    """`tf_keras.Model.fit` with TensorFlow's own ParameterServerStrategy."""

    def __init__(self, task: CtrTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import tf_keras

        with stock_strategy(self.cluster).scope():
            model = _compiled(task, tf_keras, self._optimizers(tf_keras))
        self._fit = Fit(model, tf_keras, tf_keras.utils.experimental.DatasetCreator(lambda context: dataset(task)))

    def train(self, steps: int, meter: Meter) -> None:
        self._fit(steps, meter)

    def _optimizers(self, tf_keras: Any) -> Any:
        return tf_keras.optimizers


class StockFitLegacy(StockFit):
    """`StockFit` with the legacy optimizer, which updates only the rows of the batch."""

    def _optimizers(self, tf_keras: Any) -> Any:
        return tf_keras.optimizers.legacy


class StockLoop(Contender):
    """A hand-written loop over TensorFlow's ClusterCoordinator, with the legacy optimizer, which is faster."""

    def __init__(self, task: CtrTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import tf_keras

        strategy = stock_strategy(self.cluster)
        with strategy.scope():
            model, optimizer = build_model(task, tf_keras), adagrad(tf_keras.optimizers.legacy)
        loss_of = tf_keras.losses.BinaryCrossentropy(reduction="none")
        self._loop = Loop(strategy, _loop_step(strategy, model, optimizer, loss_of), lambda: dataset(task))

    def train(self, steps: int, meter: Meter) -> None:
        self._loop(steps, meter)


class MatrixProducts(Contender):
    """The matrix products of the MLP, forward and backward, and nothing else: what no trainer can be faster than.

    As many threads as workers, each of which computes its steps on one core.
    """

    def __init__(self, task: CtrTask, num_ps: int, num_workers: int) -> None:
        super().__init__(task, num_ps, num_workers)
        import tensorflow as tf

        # A product on two cores takes more CPU time than on one.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        self._threads = num_workers
        dtype = tf.bfloat16 if task.policy == "mixed_bfloat16" else tf.float32
        widths = mlp_widths(task)
        kernels = [tf.random.normal(shape, dtype=dtype) for shape in zip(widths, widths[1:], strict=False)]
        inputs = tf.random.normal((task.batch, widths[0]), dtype=dtype)
        self._step = tf.function(lambda: _products(inputs, kernels))

    def _start(self, num_ps: int, num_workers: int) -> Any:
        return None

    def train(self, steps: int, meter: Meter) -> None:
        self._step()
        meter.start()
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            for done in [pool.submit(self._step) for _ in range(steps)]:
                done.result()
        meter.stop()


CONTENDERS: dict[str, type[Contender]] = {
    "tfps": Tfps,
    "growing": Growing,
    "stock-fit": StockFit,
    "stock-fit-legacy": StockFitLegacy,
    "stock-loop": StockLoop,
    "own-loop": OwnLoop,
    "local": Local,
    "matrix-products": MatrixProducts,
}


def stock_strategy(cluster: Any) -> Any:
    """Starts our server processes and returns TensorFlow's own strategy on them."""
    import tensorflow as tf

    cluster.start()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster.spec.resolver_spec(), rpc_layer="grpc")
    partitioners = tf.distribute.experimental.partitioners
    split = partitioners.MinSizePartitioner(min_shard_bytes=_UNSPLIT_BYTES, max_shards=cluster.num_ps)
    return tf.distribute.ParameterServerStrategy(resolver, variable_partitioner=split if cluster.num_ps > 1 else None)


def _products(inputs: Any, kernels: list[Any]) -> list[Any]:
    """Returns one number of each gradient, so that no product is left out."""
    import tensorflow as tf

    layers = [inputs]
    for kernel in kernels:
        layers.append(tf.matmul(layers[-1], kernel))
    gradient, found = layers.pop(), []
    for layer, kernel in zip(reversed(layers), reversed(kernels), strict=True):
        found.append(tf.matmul(layer, gradient, transpose_a=True)[0, 0])
        gradient = tf.matmul(gradient, kernel, transpose_b=True)
    return [*found, gradient[0, 0]]


def _compiled(task: CtrTask, keras: Any, optimizers: Any) -> Any:
    model = build_model(task, keras)
    model.compile(optimizer=adagrad(optimizers), loss="binary_crossentropy")
    return model


class Fit:
    """Calls `fit` for one epoch of the given steps. The meter runs during the epoch, not while `fit` sets it up."""

    def __init__(self, model: Any, keras: Any, data: Any) -> None:
        self._model, self._keras, self._data = model, keras, data

    def __call__(self, steps: int, meter: Meter) -> None:
        timer = self._keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: meter.start(), on_epoch_end=lambda epoch, logs: meter.stop()
        )
        self._model.fit(self._data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[timer])


class Loop:
    """Schedules a step any number of times on TensorFlow's ClusterCoordinator, with any strategy."""

    def __init__(self, strategy: Any, step: Any, make_dataset: Callable[[], Any]) -> None:
        import tensorflow as tf

        self._coordinator, self._step = tf.distribute.coordinator.ClusterCoordinator(strategy), step
        self._batches = iter(self._coordinator.create_per_worker_dataset(make_dataset))

    def __call__(self, steps: int, meter: Meter) -> None:
        meter.start()
        for _ in range(steps):
            self._coordinator.schedule(self._step, args=(self._batches,))
        self._coordinator.join()
        meter.stop()


def _loop_step(strategy: Any, model: Any, optimizer: Any, loss_of: Any) -> Any:
    import tensorflow as tf

    def train(batch: Any) -> None:
        inputs, labels = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(loss_of(labels, model(inputs, training=True)))
        variables = model.trainable_variables
        optimizer.apply_gradients(list(zip(tape.gradient(loss, variables), variables, strict=True)))

    @tf.function
    def step(batches: Any) -> None:
        strategy.run(train, args=(next(batches),))

    return step
