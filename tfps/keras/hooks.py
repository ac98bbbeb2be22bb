"""Hooks into Keras: replaces a few of its methods for objects of our strategy, and for no others.

Each hook first checks the type of the strategy. For another strategy, or for none, the original method runs.
A hook only calls the object that does the work: it makes no decision and waits for nothing. docs/architecture.md lists
the hooks.

Threading: trainer hooks run in the main thread. Variable and optimizer hooks run in every thread that traces a step.
"""

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import GeneratorType, ModuleType
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function  # the class of `tf.function`s
from tensorflow.python.framework import random_seed  # the seeds of operations are not public
from tensorflow.python.saved_model import save as saved_model  # the function behind `tf.saved_model.save`

from tfps import step
from tfps.cluster import connection
from tfps.embedding.table import Table
from tfps.errors import ClusterError, IdRangeError, InputFileError, UnsupportedError
from tfps.keras import (
    building,
    eager_steps,
    exporting,
    inner_functions,
    loss_scaling,
    model_checks,
    moving_averages,
    optimizers,
    predicting,
    regularizing,
    row_functions,
    seeds,
    sparse_products,
    variables,
)
from tfps.keras._compat import (
    EXPORT_ARCHIVE,
    UNREFERENCED_SLOTS,
    ArrayDataAdapter,
    TensorFlowTrainer,
    TFEpochIterator,
    TFOptimizer,
    Trainer,
    Variable,
    cloning,
    forget_uninitialized,
    global_generator,
    in_stateless_scope,
    keras,
    seed_generator,
    tensorflow_numpy,
)
from tfps.keras.arrays import make_dataset
from tfps.keras.batch_callbacks import TEST_HOOKS, TRAIN_HOOKS, Lookahead
from tfps.keras.eager_steps import EagerFunction
from tfps.keras.functions import LOOKAHEAD, TEST_LOOKAHEAD, StepFunction
from tfps.keras.modes import ModeOptimizer
from tfps.keras.multi_optimizer import whole_of
from tfps.keras.slot_scope import slot_scope
from tfps.keras.variables import current_strategy
from tfps.runtime.steps_under_way import TEST, TRAIN, StepsUnderWay
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import SmallTable, StepVariable
from tfps.training.custom_loop import run_in_step
from tfps.types import Nest

Method: TypeAlias = Callable[..., Any]
"""A method of Keras; its first argument is the object."""

_INSTALLED: set[str] = set()
_STEPS: "weakref.WeakKeyDictionary[keras.Model, StepsUnderWay]" = weakref.WeakKeyDictionary()
"""The steps under way of each model of our strategy. An entry is made the first time something waits for them."""


def install() -> None:
    """Installs the hooks. A second call does nothing."""
    # A hook installed twice would take the first hook for the method of Keras.
    if _INSTALLED:
        return
    _INSTALLED.add("keras")
    ParameterServerStrategy.run_in_step = run_in_step
    _install_variable_hooks()
    _install_random_hooks()
    _install_optimizer_hooks()
    _install_trainer_hooks()
    _install_export_hooks()
    _install_tensorflow_hooks()


def _replace(owner: type | ModuleType, name: str, ours: Callable[..., Any], applies: Callable[..., bool]) -> None:
    """Replaces a method or function: calls `ours(stock, ...)` if `applies(...)`, and the stock one otherwise."""
    stock = getattr(owner, name)

    @functools.wraps(stock)
    def method(*args: object, **kwargs: object) -> object:
        if not applies(*args, **kwargs):
            return stock(*args, **kwargs)
        try:
            return ours(stock, *args, **kwargs)
        except (ClusterError, IdRangeError, InputFileError) as error:
            if not keras.config.is_traceback_filtering_enabled():
                raise
            # The cause is in the data or on another host. The frames of Keras and tfps would only hide the message.
            raise error.with_traceback(None) from None

    setattr(owner, name, method)


# Variable hooks: variables are placed by the plan, tables are read by rows, and updates add in place.


def _install_variable_hooks() -> None:
    in_scope = lambda variable, *args, **kwargs: current_strategy() is not None  # noqa: E731
    _replace(Variable, "__init__", _init_variable, in_scope)
    _replace(Variable, "_initialize_with_initializer", _initialize_with_initializer, in_scope)
    _replace(Variable, "_initialize", _initialize, in_scope)
    _replace(Variable, "assign_add", _assign_add, _is_atomic)
    _replace(Variable, "assign_sub", _assign_sub, _is_atomic)
    Variable.sparse_read = property(_sparse_read)
    _replace(tensorflow_numpy, "take", row_functions.take_rows, row_functions.takes_rows)
    # `trainable` is a property, so only its setter can be replaced.
    stock = Variable.trainable
    Variable.trainable = stock.setter(functools.partial(_set_trainable, stock.fset))


def _init_variable(stock: Method, variable: Variable, *args: object, **kwargs: object) -> None:
    # Recorded first: the constructor of Keras may already initialize the variable.
    variables.record_maker(variable)
    stock(variable, *args, **kwargs)


def _strategy() -> ParameterServerStrategy:
    """Returns the strategy of the scope. Only for hooks that apply in a scope of our strategy."""
    strategy = current_strategy()
    assert strategy is not None
    return strategy


def _initialize_with_initializer(
    stock: Method, variable: Variable, initializer: keras.initializers.Initializer
) -> None:
    try:
        variable._value = variables.create(_strategy(), variable, initializer)
    except BaseException:
        # Keras would otherwise try to initialize this variable again with the next model.
        forget_uninitialized()
        raise


def _initialize(stock: Method, variable: Variable, value: tf.Tensor | Callable[[], tf.Tensor]) -> None:
    # An existing tf.Variable keeps its place. The strategy places plain values.
    if isinstance(value, tf.Variable) or callable(value):
        stock(variable, value)
    else:
        variable._value = variables.create_from_value(_strategy(), variable, value)


def _is_atomic(variable: Variable, value: object) -> bool:
    # In a stateless scope Keras only records assignments, so nothing may be written.
    return isinstance(variable._value, StepVariable) and not in_stateless_scope()


def _assign_add(stock: Method, variable: Variable, value: tf.Tensor) -> tf.Variable:
    """Adds in one operation. Keras reads, adds and assigns, so one of two concurrent updates would be lost."""
    return variable._value.assign_add(tf.cast(value, variable._value.dtype))


def _assign_sub(stock: Method, variable: Variable, value: tf.Tensor) -> tf.Variable:
    return variable._value.assign_sub(tf.cast(value, variable._value.dtype))


def _set_trainable(stock: Method, variable: Variable, value: bool) -> None:
    """Passes `trainable` on to the value: Keras changes only its own variable, but gradient tapes ask the value."""
    stock(variable, value)
    if isinstance(getattr(variable, "_value", None), StepVariable | Table):
        variable._value.trainable = variable.trainable


def _sparse_read(variable: Variable) -> Callable[..., tf.Tensor]:
    """The property that `tf.gather` looks for to read rows."""
    # AttributeError makes `hasattr` false, so that `tf.gather` reads other variables in the usual way.
    if not isinstance(variable._value, Table | SmallTable):
        raise AttributeError("sparse_read")
    return variable._value.sparse_read


# Random hooks: every step draws new numbers, and no two workers draw the same.


def _install_random_hooks() -> None:
    in_step = lambda *args, **kwargs: seeds.draws_in_step() and not in_stateless_scope()  # noqa: E731
    _replace(keras.random.SeedGenerator, "next", seeds.next_seed, in_step)
    in_scope = lambda *args: current_strategy() is not None or seeds.is_stranded(global_generator())  # noqa: E731
    _replace(seed_generator, "global_seed_generator", seeds.global_seed_generator, in_scope)
    _replace(random_seed, "get_seed", seeds.op_seeds, lambda *args: seeds.draws_in_step())


# Optimizer hooks: slots are placed beside their variables, and servers update the rows.


def _install_optimizer_hooks() -> None:
    ours = lambda optimizer, *args, **kwargs: isinstance(optimizer._distribution_strategy, ParameterServerStrategy)  # noqa: E731
    _replace(TFOptimizer, "add_variable_from_reference", _add_slot, ours)
    _replace(TFOptimizer, "build", _build, ours)
    _replace(TFOptimizer, "_backend_update_step", _update_step, ours)
    _replace(TFOptimizer, "_backend_apply_gradients", _apply_gradients, ours)
    _replace(TFOptimizer, "_clip_gradients", optimizers.clip_gradients, ours)
    _replace(TFOptimizer, "_backend_increment_gradient_accumulators", _accumulate, ours)
    _replace(TFOptimizer, "_apply_weight_decay", lambda stock, *args: optimizers.decay_dense(*args), ours)
    _replace(keras.optimizers.LossScaleOptimizer, "apply", loss_scaling.apply, ours)
    for kind in UNREFERENCED_SLOTS:
        _replace(kind, "build", _build_slots, ours)


def _update_step(stock: Method, optimizer: keras.Optimizer, *args: Any) -> None:
    current = step.current()
    whole = whole_of(optimizer)
    if current is not None and current.by_hand and isinstance(whole, ModeOptimizer):
        raise UnsupportedError(
            "`optimizer` must have no mode in a hand-written loop, which trains asynchronously. "
            f"Received: {type(whole).__name__}. Valid: a plain Keras optimizer, or `fit` with a `train_step`."
        )
    # Slots exist by now, and their marks decide how this step pushes them.
    moving_averages.mark_slots(optimizer)
    optimizers.update_step(optimizer, *args)


def _accumulate(
    stock: Method, optimizer: keras.Optimizer, gradients: list[tf.Tensor], accumulators: list[Variable]
) -> None:
    """Adds gradients to their accumulators. Keras does this in a merge call, which this strategy does not have."""
    for gradient, accumulator in zip(gradients, accumulators, strict=True):
        accumulator.assign_add(gradient)


def _build(stock: Method, optimizer: keras.Optimizer, variables: list[Variable]) -> None:
    # A model has all its tables once its optimizer is built, so the next table is the first one of another model. So it
    # is after `compile`, unless the model makes its tables later; then nothing of it is counted yet.
    optimizer._distribution_strategy.factory.small_tables.begin_model()
    stock(optimizer, variables)


def _apply_gradients(
    stock: Method, optimizer: keras.Optimizer, gradients: list[optimizers.Gradient], variables: list[Variable]
) -> None:
    stock(optimizer, optimizers.sum_repeated(optimizer, gradients, variables), variables)


def _add_slot(
    stock: Method, optimizer: keras.Optimizer, reference_variable: Variable, *args: object, **kwargs: object
) -> Variable:
    # TFOptimizer would colocate the slot in TensorFlow's way; its base class just creates it, in the scope below.
    base = super(TFOptimizer, optimizer).add_variable_from_reference
    with slot_scope(optimizer, reference_variable):
        return base(reference_variable, *args, **kwargs)


def _build_slots(stock: Method, optimizer: keras.Optimizer, variables: list[Variable]) -> None:
    stock(optimizer, optimizers.ScopedVariables(optimizer, variables))


# Trainer hooks: steps run on the workers.


def _install_trainer_hooks() -> None:
    ours = lambda model, *args, **kwargs: isinstance(model._distribute_strategy, ParameterServerStrategy)  # noqa: E731
    hooks: dict[str, Callable[..., Any]] = {
        "make_train_function": _make_train_function,
        "make_test_function": _make_test_function,
        "make_predict_function": _make_predict_function,
        "_get_metrics_result_or_logs": _metrics_result_or_logs,
        "_maybe_symbolic_build": _symbolic_build,
        "evaluate": _evaluate,
        "predict": _predict,
        "predict_on_batch": _predict_on_batch,
    }
    for name, hook in hooks.items():
        _replace(TensorFlowTrainer, name, hook, ours)
    # Replaced on Trainer, not on Model: Keras leaves a loaded model uncompiled if its `compile` is not Trainer's.
    _replace(Trainer, "compile", _compile, _is_compiled_by_us)
    _replace(TensorFlowTrainer, "fit", _fit, _is_compiled_by_us)
    _replace(keras.Model, "export", exporting.export, ours)
    for name in ("save", "save_weights", "get_weights"):
        _replace(keras.Model, name, _run_settled, ours)
    _replace(keras.layers.Layer, "_get_regularization_losses", regularizing.losses, _is_in_step)
    for name in ("_clone_functional_model", "_clone_sequential_model"):
        _replace(cloning, name, _clone, _is_outside_its_scope)
    _replace(TFEpochIterator, "__init__", _init_epoch_iterator, _is_for_our_strategy)


def _is_outside_its_scope(model: keras.Model, *args: object, **kwargs: object) -> bool:
    return isinstance(model._distribute_strategy, ParameterServerStrategy) and current_strategy() is None


def _clone(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> keras.Model:
    """Clones a model in the scope of its strategy: outside, the clone would train on the chief, silently."""
    with model._distribute_strategy.scope():
        return stock(model, *args, **kwargs)


def _is_compiled_by_us(model: keras.Model, *args: object, **kwargs: object) -> bool:
    # A model that was made outside the scope has no strategy yet.
    return isinstance(model._distribute_strategy, ParameterServerStrategy) or current_strategy() is not None


def _is_in_step(layer: keras.layers.Layer) -> bool:
    return step.current() is not None


def _is_for_our_strategy(
    iterator: TFEpochIterator,
    distribute_strategy: tf.distribute.Strategy | None = None,
    *args: object,
    **kwargs: object,
) -> bool:
    return isinstance(distribute_strategy, ParameterServerStrategy)


def _init_epoch_iterator(
    stock: Method,
    iterator: TFEpochIterator,
    distribute_strategy: tf.distribute.Strategy | None = None,
    *args: object,
    **kwargs: object,
) -> None:
    """Divides the input between the workers instead of copying it to each."""
    assert isinstance(distribute_strategy, ParameterServerStrategy)
    if _is_dataset_creator(kwargs.get("x")):
        kwargs["x"] = distribute_strategy.distribute_datasets_from_function(kwargs["x"])
    # `fit` passes shuffle=True by default. A dataset or a generator ignores it, and Keras 3.15 warns about that even if
    # the user has not set `shuffle`.
    if isinstance(kwargs.get("x"), (tf.data.Dataset, GeneratorType)):
        kwargs["shuffle"] = False
    # This skips the constructor of TFEpochIterator, which would distribute the dataset in TensorFlow's way.
    super(TFEpochIterator, iterator).__init__(*args, **kwargs)
    iterator._distribute_strategy = distribute_strategy
    dataset = make_dataset(iterator.data_adapter)
    iterator._distributed_dataset = distribute_strategy.share_batches(dataset)
    iterator._distributed_dataset.steps_per_epoch = iterator.steps_per_epoch
    iterator._distributed_dataset.num_batches = iterator.num_batches
    # Only arrays have a known batch size, in examples; the batches of a dataset may differ.
    if isinstance(iterator.data_adapter, ArrayDataAdapter):
        iterator._distributed_dataset.examples = iterator.data_adapter.batch_size
    # Keras before 3.7 sets this in the constructor that is skipped above.
    iterator._steps_seen = 0


def _is_dataset_creator(x: object) -> bool:
    """Whether an input is the `DatasetCreator` of Keras 2, which calls a function of an InputContext."""
    return callable(x) and any(kind.__name__ == "DatasetCreator" for kind in type(x).__mro__)


def _compile(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> None:
    model_checks.adopt(model, current_strategy() or model._distribute_strategy)
    # Compiled first: Keras may wrap or replace the optimizer, and the check has to see the final one.
    stock(model, *args, **kwargs)
    # Keras tracks what is assigned to a model in the plain way.
    object.__setattr__(model, optimizers.DEFAULT_OPTIMIZER, not args and "optimizer" not in kwargs)
    model_checks.check_compiled(model)
    # Users build an optimizer by hand too, to load its variables for example, and that may be outside the scope.
    model_checks.adopt_optimizers(model)
    model.distribute_strategy.factory.small_tables.begin_model()


def _make_train_function(stock: Method, model: keras.Model, force: bool = False) -> StepFunction | EagerFunction:
    function = model.train_function
    # Keras keeps the function between calls of `fit`. Putting the optimizer into a mode in between makes it outdated.
    outdated = isinstance(function, StepFunction) and function.is_outdated
    return _keep_function(model, "train", force or outdated)


def _make_test_function(stock: Method, model: keras.Model, force: bool = False) -> StepFunction | EagerFunction:
    return _keep_function(model, "test", force)


def _keep_function(model: keras.Model, kind: str, force: bool) -> StepFunction | EagerFunction:
    """Makes `model.train_function` or `model.test_function`, unless the model has it."""
    name, run = f"{kind}_function", getattr(model, f"{kind}_step")
    # `run_eagerly` may change without `compile`.
    eager, function = eager_steps.runs_eagerly(model), getattr(model, name)
    if eager:
        eager_steps.tell(model)
    elif building.finish(model, kind, run):
        model_checks.check_built(model)
    if function is None or force or isinstance(function, StepFunction if eager else EagerFunction):
        function = EagerFunction(model, run) if eager else StepFunction(model, run, updates=kind == "train")
        # Keras tracks what is assigned to a model, and this function refers back to the model: not by plain assignment.
        object.__setattr__(model, name, function)
    return function


def _make_predict_function(stock: Method, model: keras.Model, force: bool = False) -> object:
    # Steps that run eagerly are those of Keras.
    if eager_steps.runs_eagerly(model):
        return stock(model, force)
    if force or not isinstance(model.predict_function, predicting.PredictFunction):
        object.__setattr__(model, "predict_function", predicting.PredictFunction(model))
    return model.predict_function


def _steps_of(model: keras.Model) -> StepsUnderWay:
    """Returns the steps that workers have under way for a model."""
    if model not in _STEPS:
        # The value of a WeakKeyDictionary must not refer to its key, or the model would never be freed.
        reference = weakref.ref(model)

        def function_of(kind: str) -> StepFunction | None:
            function = getattr(reference(), kind, None)
            return function if isinstance(function, StepFunction) else None

        _STEPS[model] = StepsUnderWay(function_of, model._distribute_strategy.closure_timeout_s)
    return _STEPS[model]


def _fit(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `fit`; its steps run ahead of the callbacks only as far as these allow."""
    model_checks.check_known(model)
    with _lookahead(LOOKAHEAD, TRAIN_HOOKS, stock, model, *args, **kwargs):
        return _run_loop(TRAIN, stock, model, *args, **kwargs)


def _evaluate(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `evaluate`, alone or within `fit`."""
    with _lookahead(TEST_LOOKAHEAD, TEST_HOOKS, stock, model, *args, **kwargs):
        return _run_loop(TEST, stock, model, *args, **kwargs)


@contextlib.contextmanager
def _lookahead(
    name: str, hooks: Sequence[str], stock: Method, model: keras.Model, *args: object, **kwargs: object
) -> Iterator[None]:
    """Sets an attribute of a model to the `Lookahead` of a call of one of its methods, within."""
    given = None
    # A call with wrong arguments fails in Keras, with its message.
    with contextlib.suppress(TypeError):
        given = inspect.signature(stock).bind(model, *args, **kwargs).arguments.get("callbacks")
    # Keras tracks what is assigned to a model in the plain way.
    object.__setattr__(model, name, Lookahead(given, model, hooks))
    try:
        yield
    finally:
        object.__setattr__(model, name, None)


def _run_loop(kind: str, stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `fit` or `evaluate`. If it fails, no step that it started changes the model afterwards."""
    with seeds.twins_of(model._distribute_strategy).loop(), _steps_of(model).loop(kind):
        return stock(model, *args, **kwargs)


def _metrics_result_or_logs(stock: Method, model: keras.Model, logs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ends an epoch or `evaluate`: waits for all its steps, so that the logs have them."""
    final = _steps_of(model).finish()
    return stock(model, logs) if final is None else final


def _run_settled(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `save` and similar methods between two steps: a callback may call them within an epoch."""
    _steps_of(model).settle()
    return stock(model, *args, **kwargs)


def _predict(stock: Method, model: keras.Model, *args: Any, **kwargs: Any) -> object:
    # A callback may call `predict` within an epoch; it must see the updates of all steps so far.
    _steps_of(model).settle()
    predict = eager_steps.predict if eager_steps.runs_eagerly(model) else predicting.predict
    return predict(stock, model, *args, **kwargs)


def _predict_on_batch(stock: Method, model: keras.Model, x: Nest) -> Nest:
    predict = eager_steps.predict if eager_steps.runs_eagerly(model) else predicting.predict_on_batch
    return predict(stock, model, x)


def _symbolic_build(
    stock: Method, model: keras.Model, iterator: TFEpochIterator | None = None, data_batch: Nest = None
) -> None:
    """Builds the model in the scope, from the element spec of the input, so that no data is read.

    Eager steps build what is missing with their first batch, as in Keras: the model's own code may need real values.
    """
    if iterator is not None:
        data_batch = iterator._distributed_dataset.element_spec
    strategy = model._distribute_strategy
    # BackupAndRestore leaves this set after a resumed `fit`, and the next `fit` would train no epoch.
    model._initial_epoch = 0
    with strategy.scope():
        model_checks.prepare(model, strategy)
        if not eager_steps.runs_eagerly(model):
            building.begin(model, data_batch)
        model_checks.check_built(model)


# Export hooks: what is saved refers to the chief alone.


def _install_export_hooks() -> None:
    # What is saved may hold models of ours or none: only the objects that it reaches tell. Before the first strategy it
    # holds none.
    connected = lambda *args, **kwargs: connection.current() is not None  # noqa: E731
    _replace(EXPORT_ARCHIVE, "write_out", exporting.write_out, connected)
    _replace(saved_model, "save_and_return_nodes", exporting.save, connected)
    _replace(polymorphic_function.Function, "get_concrete_function", exporting.record_source, connected)


# TensorFlow hooks: what a step calls is part of the step.


def _install_tensorflow_hooks() -> None:
    function = type(tf.function(lambda: None))
    in_step = lambda *args, **kwargs: inner_functions.is_in_traced_step()  # noqa: E731
    _replace(function, "__call__", inner_functions.run_inline, in_step)
    _replace(tf, "vectorized_map", inner_functions.map_with_lookups, in_step)
    _replace(tf.sparse, "sparse_dense_matmul", sparse_products.multiply, sparse_products.is_of_table)
    for lookup in (row_functions.embedding_lookup_sparse, row_functions.safe_embedding_lookup_sparse):
        _replace(tf.nn, lookup.__name__, lookup, row_functions.is_for_table)
