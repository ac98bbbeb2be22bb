"""Where tfps meets Keras: a few methods of Keras, replaced for objects of our strategy and for no others.

Each hook first checks the strategy's type. With another strategy, or with none, the method it replaced runs.
A hook decides nothing and waits for nothing: it calls the object that does. docs/architecture.md lists the hooks.

Threading: those of trainers run in the main thread, those of variables and optimizers in whichever thread traces.
"""

import functools
import weakref
from collections.abc import Callable, Mapping
from types import GeneratorType
from typing import Any, TypeAlias

import tensorflow as tf

from tfps import step
from tfps.embedding.table import Table
from tfps.errors import ClusterError, IdRangeError, UnsupportedError
from tfps.keras import exporting, model_checks, moving_averages, optimizers, predicting, regularizing, variables
from tfps.keras._compat import (
    UNREFERENCED_SLOTS,
    ArrayDataAdapter,
    TensorFlowTrainer,
    TFEpochIterator,
    TFOptimizer,
    Trainer,
    Variable,
    forget_uninitialized,
    in_stateless_scope,
    keras,
)
from tfps.keras.arrays import dataset_of
from tfps.keras.functions import StepFunction
from tfps.keras.modes import Moded
from tfps.keras.multi_optimizer import whole_of
from tfps.keras.slot_scope import slot_scope
from tfps.keras.variables import current_strategy
from tfps.runtime.steps_under_way import TEST, TRAIN, StepsUnderWay
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import StepVariable
from tfps.training.custom_loop import run_in_step
from tfps.types import Nest

Method: TypeAlias = Callable[..., Any]
"""A method of Keras; its first argument is the object."""

_INSTALLED: set[str] = set()
_STEPS: "weakref.WeakKeyDictionary[keras.Model, StepsUnderWay]" = weakref.WeakKeyDictionary()
"""For each model of ours its steps under way; made when one is first waited for."""


def install() -> None:
    """Installs the hooks, once."""
    if _INSTALLED:
        return
    _INSTALLED.add("keras")
    ParameterServerStrategy.run_in_step = run_in_step
    _install_variable_hooks()
    _install_optimizer_hooks()
    _install_trainer_hooks()


def _replace(owner: type, name: str, ours: Callable[..., Any], applies: Callable[..., bool]) -> None:
    """Calls `ours(stock, self, ...)` where `applies(self, ...)` is true, the stock method for others."""
    stock = getattr(owner, name)

    @functools.wraps(stock)
    def method(self: object, *args: object, **kwargs: object) -> object:
        if not applies(self, *args, **kwargs):
            return stock(self, *args, **kwargs)
        try:
            return ours(stock, self, *args, **kwargs)
        except (ClusterError, IdRangeError) as error:
            if not keras.config.is_traceback_filtering_enabled():
                raise
            # The cause is in the data or on another host: frames of Keras and of ours only push the message up.
            raise error.with_traceback(None) from None

    setattr(owner, name, method)


# Variables: made where the plan says, read by rows, added to in place.


def _install_variable_hooks() -> None:
    in_scope = lambda variable, *args, **kwargs: current_strategy() is not None  # noqa: E731
    _replace(Variable, "__init__", _note_maker, in_scope)
    _replace(Variable, "_initialize_with_initializer", _initialize_with_initializer, in_scope)
    _replace(Variable, "_initialize", _initialize, in_scope)
    _replace(Variable, "assign_add", _assign_add, _is_atomic)
    _replace(Variable, "assign_sub", _assign_sub, _is_atomic)
    Variable.sparse_read = property(_sparse_read)
    stock = Variable.trainable
    Variable.trainable = stock.setter(functools.partial(_set_trainable, stock.fset))


def _note_maker(stock: Method, variable: Variable, *args: object, **kwargs: object) -> None:
    variables.record_maker(variable)
    stock(variable, *args, **kwargs)


def _strategy() -> ParameterServerStrategy:
    strategy = current_strategy()
    assert strategy is not None  # the hook applies in a scope of ours only
    return strategy


def _initialize_with_initializer(
    stock: Method, variable: Variable, initializer: keras.initializers.Initializer
) -> None:
    try:
        variable._value = variables.create(_strategy(), variable, initializer)
    except BaseException:
        forget_uninitialized()  # or Keras would try it again with the next model
        raise


def _initialize(stock: Method, variable: Variable, value: tf.Tensor | Callable[[], tf.Tensor]) -> None:
    if isinstance(value, tf.Variable) or callable(value):
        stock(variable, value)
    else:
        variable._value = variables.create_from_value(_strategy(), variable, value)


def _is_atomic(variable: Variable, value: object) -> bool:
    return isinstance(variable._value, StepVariable) and not in_stateless_scope()


def _assign_add(stock: Method, variable: Variable, value: tf.Tensor) -> tf.Variable:
    """Adds in one operation. Keras reads, adds and assigns, and of two workers that do so at once one is lost."""
    return variable._value.assign_add(tf.cast(value, variable._value.dtype))


def _assign_sub(stock: Method, variable: Variable, value: tf.Tensor) -> tf.Variable:
    return variable._value.assign_sub(tf.cast(value, variable._value.dtype))


def _set_trainable(stock: Method, variable: Variable, value: bool) -> None:
    """Keras tells only its own variable when a layer is frozen or thawed; tapes ask ours."""
    stock(variable, value)
    if isinstance(getattr(variable, "_value", None), StepVariable | Table):
        variable._value.trainable = variable.trainable


def _sparse_read(variable: Variable) -> Callable[..., tf.Tensor]:
    """`tf.gather` asks for this; for a variable that is not a table it must not be there."""
    if not isinstance(variable._value, Table):
        raise AttributeError("sparse_read")
    return variable._value.sparse_read


# Optimizers: slots beside their variables, rows updated on the servers.


def _install_optimizer_hooks() -> None:
    ours = lambda optimizer, *args, **kwargs: isinstance(optimizer._distribution_strategy, ParameterServerStrategy)  # noqa: E731
    _replace(TFOptimizer, "add_variable_from_reference", _add_slot, ours)
    _replace(TFOptimizer, "_backend_update_step", _update_step, ours)
    _replace(TFOptimizer, "_clip_gradients", optimizers.clip_gradients, ours)
    _replace(TFOptimizer, "_apply_weight_decay", lambda stock, *args: optimizers.decay_dense(*args), ours)
    for kind in UNREFERENCED_SLOTS:
        _replace(kind, "build", _build_in_turn, ours)


def _update_step(stock: Method, optimizer: keras.Optimizer, *args: Any) -> None:
    current = step.current()
    whole = whole_of(optimizer)
    if current is not None and current.by_hand and isinstance(whole, Moded):
        raise UnsupportedError(
            "`optimizer` must have no mode in a hand-written loop, which trains asynchronously. "
            f"Received: {type(whole).__name__}. Valid: one as Keras makes it, or `fit` with a `train_step`."
        )
    moving_averages.note_slots(optimizer)
    optimizers.update_step(optimizer, *args)


def _add_slot(
    stock: Method, optimizer: keras.Optimizer, reference_variable: Variable, *args: object, **kwargs: object
) -> Variable:
    base = super(TFOptimizer, optimizer).add_variable_from_reference
    with slot_scope(optimizer, reference_variable):
        return base(reference_variable, *args, **kwargs)


def _build_in_turn(stock: Method, optimizer: keras.Optimizer, variables: list[Variable]) -> None:
    stock(optimizer, optimizers.InTurn(optimizer, variables))


# Trainers: steps run on the workers.


def _install_trainer_hooks() -> None:
    ours = lambda model, *args, **kwargs: isinstance(model._distribute_strategy, ParameterServerStrategy)  # noqa: E731
    hooks: dict[str, Callable[..., Any]] = {
        "make_train_function": _make_train_function,
        "make_test_function": _make_test_function,
        "_get_metrics_result_or_logs": _metrics_result_or_logs,
        "_maybe_symbolic_build": _symbolic_build,
        "fit": functools.partial(_run_loop, TRAIN),
        "evaluate": functools.partial(_run_loop, TEST),
        "predict": _predict,
        "predict_on_batch": predicting.predict_on_batch,
    }
    for name, hook in hooks.items():
        _replace(TensorFlowTrainer, name, hook, ours)
    # Not of Model: Keras leaves a loaded model uncompiled where its `compile` is another than this class has.
    _replace(Trainer, "compile", _compile, ours)
    _replace(keras.Model, "export", exporting.export, ours)
    for name in ("save", "save_weights", "get_weights"):
        _replace(keras.Model, name, _of_whole_steps, ours)
    _replace(keras.layers.Layer, "_get_regularization_losses", regularizing.losses, _in_a_step)
    _replace(TFEpochIterator, "__init__", _epoch_iterator, _for_our_strategy)


def _in_a_step(layer: keras.layers.Layer) -> bool:
    return step.current() is not None


def _for_our_strategy(
    iterator: TFEpochIterator,
    distribute_strategy: tf.distribute.Strategy | None = None,
    *args: object,
    **kwargs: object,
) -> bool:
    return isinstance(distribute_strategy, ParameterServerStrategy)


def _epoch_iterator(
    stock: Method,
    iterator: TFEpochIterator,
    distribute_strategy: tf.distribute.Strategy | None = None,
    *args: object,
    **kwargs: object,
) -> None:
    """Divides the input between the workers, in place of copying it to each."""
    # `fit` has shuffle=True by default, which a dataset or a generator ignores. Keras 3.15 warns of that even where the
    # user has said nothing about it.
    if isinstance(kwargs.get("x"), (tf.data.Dataset, GeneratorType)):
        kwargs["shuffle"] = False
    # The constructor of the base alone: that of TFEpochIterator would distribute the dataset as TensorFlow does.
    super(TFEpochIterator, iterator).__init__(*args, **kwargs)
    iterator._distribute_strategy = distribute_strategy
    assert isinstance(distribute_strategy, ParameterServerStrategy)  # the hook applies to no other
    dataset = dataset_of(iterator.data_adapter)
    iterator._distributed_dataset = distribute_strategy.share_batches(dataset)
    iterator._distributed_dataset.steps_per_epoch = iterator.steps_per_epoch
    iterator._distributed_dataset.num_batches = iterator.num_batches
    if isinstance(iterator.data_adapter, ArrayDataAdapter):
        iterator._distributed_dataset.examples = iterator.data_adapter.batch_size
    iterator._steps_seen = 0  # which Keras before 3.7 sets in the constructor that this one replaces


def _compile(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> None:
    stock(model, *args, **kwargs)
    model_checks.check_compiled(model)


def _make_train_function(stock: Method, model: keras.Model, force: bool = False) -> StepFunction:
    made = model.train_function
    if made is None or force or (isinstance(made, StepFunction) and made.outdated):
        object.__setattr__(model, "train_function", StepFunction(model, model.train_step, updates=True))
    return model.train_function


def _make_test_function(stock: Method, model: keras.Model, force: bool = False) -> StepFunction:
    # A Keras model tracks what is assigned to it; these hold the model.
    if model.test_function is None or force:
        object.__setattr__(model, "test_function", StepFunction(model, model.test_step, updates=False))
    return model.test_function


def _steps_of(model: keras.Model) -> StepsUnderWay:
    """The steps of a model that workers have under way."""
    if model not in _STEPS:
        reference = weakref.ref(model)  # the table must not keep the model

        def function_of(kind: str) -> StepFunction | None:
            function = getattr(reference(), kind, None)
            return function if isinstance(function, StepFunction) else None

        _STEPS[model] = StepsUnderWay(function_of, model._distribute_strategy.closure_timeout_s)
    return _STEPS[model]


def _run_loop(kind: str, stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """`fit` and `evaluate`: when one fails, nothing that it began changes the model after it."""
    with _steps_of(model).loop(kind):
        return stock(model, *args, **kwargs)


def _metrics_result_or_logs(stock: Method, model: keras.Model, logs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Called at the end of an epoch and of `evaluate`: nothing may be under way after it."""
    final = _steps_of(model).finish()
    return stock(model, logs) if final is None else final


def _of_whole_steps(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """`save` and the like, within an epoch from a callback: between two steps."""
    _steps_of(model).settle()
    return stock(model, *args, **kwargs)


def _predict(stock: Method, model: keras.Model, *args: Any, **kwargs: Any) -> object:
    _steps_of(model).settle()
    return predicting.predict(stock, model, *args, **kwargs)


def _symbolic_build(
    stock: Method, model: keras.Model, iterator: TFEpochIterator | None = None, data_batch: Nest = None
) -> None:
    """Builds from the element spec, so that no data is read, and inside the scope."""
    if iterator is not None:
        data_batch = iterator._distributed_dataset.element_spec
    strategy = model._distribute_strategy
    model._initial_epoch = 0  # BackupAndRestore leaves it set, and the fit after a resumed one would do nothing
    with strategy.scope():
        model_checks.prepare(model, strategy)
        model._symbolic_build(data_batch=data_batch)
        model_checks.check_built(model)
