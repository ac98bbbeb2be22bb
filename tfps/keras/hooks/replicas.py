"""Hooks for the strategies of `tfps.replicas`: one device, Mirrored, MultiWorkerMirrored.

Threading: the main thread, and a thread of each replica while a step is traced.
"""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfps.errors import UnsupportedError
from tfps.keras import variables
from tfps.keras._compat import (
    STEPS_OF_EPOCH,
    WARNING_OF_END,
    ArrayDataAdapter,
    TensorFlowTrainer,
    TFEpochIterator,
    TFOptimizer,
    Trainer,
    Variable,
    end_without_warning,
    initialize_copies,
    keras,
    losses,
    tensorflow_numpy,
)
from tfps.keras.batch_callbacks import LOOKAHEAD, TEST_LOOKAHEAD, looking_ahead
from tfps.keras.hooks import replacing
from tfps.keras.hooks.replacing import Method
from tfps.keras.modes import ModeOptimizer
from tfps.keras.replicas import adoption, functions, saving, tables, updates
from tfps.keras.replicas import losses as replica_losses
from tfps.replicas import multi_worker, step
from tfps.replicas.iterators import free_in_background
from tfps.replicas.strategies import MultiWorkerMirroredStrategy, Replicated
from tfps.types import Nest

_INSTALLED: set[str] = set()


def install() -> None:
    """Installs the hooks. A second call does nothing."""
    if _INSTALLED:
        return
    _INSTALLED.add("replicas")
    _install_variables()
    _install_optimizers()
    _install_losses()
    trains = lambda model, *args, **kwargs: isinstance(model._distribute_strategy, Replicated)  # noqa: E731
    replacing.replace(TensorFlowTrainer, "make_train_function", _make_train_function, trains)
    replacing.replace(TensorFlowTrainer, "make_test_function", _make_test_function, trains)
    replacing.replace(TensorFlowTrainer, "_maybe_symbolic_build", _symbolic_build, trains)
    replacing.replace(TensorFlowTrainer, "predict_on_batch", functions.predict_on_batch, trains)
    replacing.replace(Trainer, "compile", _compile, _is_compiled_by_us)
    for name in ("fit", "evaluate"):
        replacing.replace(TensorFlowTrainer, name, _run_ahead, trains)
    # `train_on_batch` and `test_on_batch` make their functions; a hook of theirs would be one more line of each error.
    for name in ("fit", "evaluate", "make_train_function", "make_test_function"):
        replacing.replace(TensorFlowTrainer, name, _refuse_outsider, _is_made_outside)
    replacing.replace(TFEpochIterator, STEPS_OF_EPOCH, _enumerate_steps, _is_of_replicas)
    replacing.replace(TFEpochIterator, "__init__", _init_iterator, _is_of_several_hosts)
    replacing.replace(TFEpochIterator, WARNING_OF_END, _say_end, _is_of_several_hosts)
    _install_saving()


def _install_variables() -> None:
    in_scope = lambda *args, **kwargs: tables.current_strategy() is not None  # noqa: E731
    replacing.replace(Variable, "__init__", _init_variable, in_scope)
    replacing.replace(Variable, "_initialize_with_initializer", _initialize_with_initializer, in_scope)
    replacing.replace(Variable, "_initialize", _initialize, in_scope)
    replacing.replace(Variable, "_direct_assign", _assign, lambda *args: step.current() is not None)
    replacing.replace(
        keras.random.SeedGenerator, "next", _next_seed, lambda *args, **kwargs: step.current() is not None
    )
    replacing.replace(Variable, "__int__", lambda stock, one: int(one.numpy()), _is_distributed)
    replacing.replace(Variable, "__float__", lambda stock, one: float(one.numpy()), _is_distributed)
    replacing.replace(tensorflow_numpy, "take", tables.take_rows, tables.takes_rows)


def _install_optimizers() -> None:
    ours = lambda optimizer, *args, **kwargs: isinstance(optimizer._distribution_strategy, Replicated)  # noqa: E731
    for kind in (keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer):
        replacing.replace(kind, "apply", updates.apply, _begins_update)
    replacing.replace(TFOptimizer, "_backend_apply_gradients", updates.apply_gradients, ours)
    replacing.replace(TFOptimizer, "_backend_update_step", updates.update_step, ours)
    replacing.replace(TFOptimizer, "_clip_gradients", updates.clip, ours)
    replacing.replace(TFOptimizer, "_apply_weight_decay", updates.decay, ours)
    replacing.replace(TFOptimizer, "_backend_increment_gradient_accumulators", updates.accumulate, ours)
    replacing.replace(TFOptimizer, "_overwrite_model_variables_with_average_value", updates.take_averages, ours)


def _install_losses() -> None:
    replacing.replace(losses, "reduce_weighted_values", replica_losses.reduce_weighted_values, replica_losses.is_shared)
    for name in ("scale_loss_for_distribution", "unscale_loss_for_distribution"):
        # Not every version of Keras has them.
        if hasattr(losses, name):
            replacing.replace(losses, name, replica_losses.keep, replica_losses.is_shared)
    for name in ("compute_average_loss", "scale_regularization_loss"):
        replacing.replace(tf.nn, name, getattr(replica_losses, name), replica_losses.is_shared)


def _run_ahead(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    with looking_ahead(stock, model, *args, **kwargs):
        return stock(model, *args, **kwargs)


def _is_made_outside(model: keras.Model, *args: object, **kwargs: object) -> bool:
    return model._distribute_strategy is None and tables.current_strategy() is not None


def _refuse_outsider(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    adoption.check_model_of_scope(model)
    return stock(model, *args, **kwargs)


def _is_of_replicas(iterator: TFEpochIterator) -> bool:
    return isinstance(iterator._distribute_strategy, Replicated)


def _enumerate_steps(stock: Method, iterator: TFEpochIterator) -> Iterator[tuple[Any, ...]]:
    """Tells the function that runs the steps how many an epoch has left, so that it does not run beyond its end."""
    if _is_of_several_hosts(iterator):
        _forget_number(iterator)
    begins = True
    for number, *rest in stock(iterator):
        total = iterator.num_batches
        if begins and isinstance(rest[-1], tf.data.Iterator):
            free_in_background(rest[-1])
        functions.set_steps_left(rest[-1], begins, total - number if total else None)
        begins = False
        yield number, *rest


def _is_of_several_hosts(
    iterator: TFEpochIterator, distribute_strategy: tf.distribute.Strategy | None = None, *args: Any, **kwargs: Any
) -> bool:
    strategy = distribute_strategy or getattr(iterator, "_distribute_strategy", None)
    return isinstance(strategy, MultiWorkerMirroredStrategy) and multi_worker.has_peers(strategy)


def _init_iterator(stock: Method, iterator: TFEpochIterator, *args: Any, **kwargs: Any) -> None:
    stock(iterator, *args, **kwargs)
    _forget_number(iterator)


def _forget_number(iterator: TFEpochIterator) -> None:
    """Lets an epoch go on until no worker has a batch: each may have another number of them."""
    if not isinstance(iterator.data_adapter, ArrayDataAdapter):
        iterator._num_batches = None


def _say_end(stock: Method, iterator: TFEpochIterator) -> Any:
    """Warns only of an input that is shorter than the user has said."""
    return stock(iterator) if iterator.steps_per_epoch else end_without_warning(stock, iterator)


def _install_saving() -> None:
    for name in ("fit", "evaluate", "predict"):
        replacing.replace(TensorFlowTrainer, name, _run_together, saving.is_on_several_hosts)
    for name in ("save", "save_weights", "export"):
        replacing.replace(keras.Model, name, saving.save, saving.is_on_several_hosts)
    backup = keras.callbacks.BackupAndRestore
    replacing.replace(backup, "on_train_begin", saving.restore, saving.holds_model)
    replacing.replace(backup, "_save_model", saving.back_up, saving.holds_model)
    replacing.replace(backup, "on_train_end", saving.remove_backup, saving.holds_model)


def _run_together(stock: Method, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
    with multi_worker.naming_lost_workers():
        return stock(model, *args, **kwargs)


def _begins_update(optimizer: keras.Optimizer, *args: object, **kwargs: object) -> bool:
    return isinstance(optimizer._distribution_strategy, Replicated) and not step.is_updating()


def _init_variable(stock: Method, variable: Variable, *args: object, **kwargs: object) -> None:
    # Recorded first: the constructor of Keras may already initialize the variable.
    variables.record_maker(variable)
    stock(variable, *args, **kwargs)


def _initialize_with_initializer(
    stock: Method, variable: Variable, initializer: keras.initializers.Initializer
) -> None:
    # As in newer versions of Keras. Keras 3.6 does not call `_initialize`.
    variable._initialize(lambda: initializer(variable._shape, dtype=variable._dtype))


def _initialize(stock: Method, variable: Variable, value: tf.Tensor | Callable[[], tf.Tensor]) -> None:
    strategy = tables.current_strategy()
    assert strategy is not None
    # The variable may have been made before the scope, for a model that is built in it.
    if not hasattr(variable, "_tfps_maker"):
        variables.record_maker(variable)
    initialize_copies(stock, variable, value, variables.is_metric(variable))
    tables.mark(strategy, variable)


def _assign(stock: Method, variable: Variable, value: tf.Tensor) -> None:
    current = step.current()
    assert current is not None
    current.assigned.append(variable)
    stock(variable, value)


def _next_seed(stock: Method, generator: keras.random.SeedGenerator, *args: Any, **kwargs: Any) -> tf.Tensor:
    """Draws other numbers on each replica, which otherwise would drop the same units for their different examples."""
    with step.after_input():
        seed = tf.convert_to_tensor(stock(generator, *args, **kwargs))
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return seed
    number = tf.cast(replica.replica_id_in_sync_group, seed.dtype)
    # Multiples of an odd number near 2**32 / golden ratio: the seeds of steps, which count up, never meet them soon.
    return seed + tf.stack([tf.zeros_like(number), number * tf.constant(2_654_435_769, seed.dtype)])


def _is_distributed(variable: Variable) -> bool:
    return isinstance(variable._value, tf.distribute.DistributedValues)


def _is_compiled_by_us(model: keras.Model, *args: object, **kwargs: object) -> bool:
    # A model that was made outside the scope has no strategy yet.
    return isinstance(model._distribute_strategy, Replicated) or tables.current_strategy() is not None


def _compile(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> None:
    adoption.adopt_model(model, tables.current_strategy() or model._distribute_strategy)
    stock(model, *args, **kwargs)
    adoption.adopt_optimizers(model)
    if isinstance(model.optimizer, ModeOptimizer):
        raise UnsupportedError(
            f"`optimizer` must have no mode under {type(model._distribute_strategy).__name__}, where every step is "
            f"synchronous. Received: {type(model.optimizer).__name__}. Valid: a plain Keras optimizer."
        )
    model._distribute_strategy.small_tables.begin_model()


def _make_train_function(stock: Method, model: keras.Model, force: bool = False) -> Callable[[Any], Nest]:
    return _keep_function(model, "train", force)


def _make_test_function(stock: Method, model: keras.Model, force: bool = False) -> Callable[[Any], Nest]:
    return _keep_function(model, "test", force)


def _keep_function(model: keras.Model, kind: str, force: bool) -> Callable[[Any], Nest]:
    function = getattr(model, f"{kind}_function")
    # `run_eagerly` may change without `compile`.
    if not isinstance(function, functions.ReplicatedFunction) or force or function.is_outdated:
        lookahead = LOOKAHEAD if kind == "train" else TEST_LOOKAHEAD
        function = functions.ReplicatedFunction(model, getattr(model, f"{kind}_step"), lookahead)
        # Keras tracks what is assigned to a model in the plain way.
        object.__setattr__(model, f"{kind}_function", function)
    return function


def _symbolic_build(
    stock: Method, model: keras.Model, iterator: TFEpochIterator | None = None, data_batch: Nest = None
) -> None:
    """Builds the model in the scope from the element spec of the input, so that no batch is taken from it."""
    if iterator is not None:
        data_batch = tables.spec_of_replica(iterator._distributed_dataset.element_spec)
    # BackupAndRestore leaves this set after a resumed `fit`, and the next `fit` would train no epoch.
    model._initial_epoch = 0
    with model._distribute_strategy.scope():
        model._symbolic_build(data_batch=data_batch)
    replica_losses.check_model(model)
    # A model may get more of them after `compile`.
    adoption.adopt_optimizers(model)
    adoption.adopt_metrics(model)
