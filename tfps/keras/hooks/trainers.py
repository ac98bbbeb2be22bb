"""Hooks into models: `fit`, `evaluate` and `predict` run their steps on the workers.

Threading: the main thread.
"""

from collections.abc import Callable, Mapping
from types import GeneratorType
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding import row_version
from tfps.keras import (
    building,
    eager_steps,
    exporting,
    failed_fit,
    model_checks,
    optimizers,
    predicting,
    regularizing,
    resuming,
    seeds,
)
from tfps.keras._compat import (
    STEPS_OF_EPOCH,
    ArrayDataAdapter,
    TensorFlowTrainer,
    TFEpochIterator,
    Trainer,
    cloning,
    final_logs,
    keras,
)
from tfps.keras.arrays import make_dataset
from tfps.keras.batch_callbacks import argument_of, callbacks_of, looking_ahead
from tfps.keras.eager_steps import EagerFunction
from tfps.keras.functions import StepFunction
from tfps.keras.hooks import replacing
from tfps.keras.hooks.replacing import Method
from tfps.keras.server_recovery import fit_through_losses
from tfps.keras.steps_of_models import steps_of
from tfps.keras.variables import current_strategy
from tfps.monitoring.snapshot import Phase
from tfps.runtime.steps_under_way import TEST, TRAIN
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.types import Nest

_PHASES: dict[str, Phase] = {TRAIN: "train", TEST: "test"}
"""What those who watch the job call a loop."""


def install() -> None:
    """Installs the hooks."""
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
        replacing.replace(TensorFlowTrainer, name, hook, ours)
    # Replaced on Trainer, not on Model: Keras leaves a loaded model uncompiled if its `compile` is not Trainer's.
    replacing.replace(Trainer, "compile", _compile, _is_compiled_by_us)
    replacing.replace(TensorFlowTrainer, "fit", _fit, _is_compiled_by_us)
    replacing.replace(keras.Model, "export", exporting.export, ours)
    for name in ("save", "save_weights", "get_weights"):
        replacing.replace(keras.Model, name, _run_settled, ours)
    replacing.replace(keras.layers.Layer, "_get_regularization_losses", regularizing.losses, _is_in_step)
    for name in ("_clone_functional_model", "_clone_sequential_model"):
        replacing.replace(cloning, name, _clone, _is_outside_its_scope)
    replacing.replace(TFEpochIterator, "__init__", _init_epoch_iterator, _is_for_our_strategy)
    replacing.replace(TFEpochIterator, STEPS_OF_EPOCH, resuming.steps_of_epoch, resuming.is_resumed)


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
        model_checks.adopt_metrics(model)
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


def _fit(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `fit`; its steps run ahead of the callbacks only as far as these allow."""
    model_checks.check_known(model)
    callbacks = callbacks_of(stock, model, *args, **kwargs)
    signals = model._distribute_strategy.stop_signals

    def run() -> object:
        # Each turn after a loss begins the callbacks anew, so they hear of the end of each.
        with failed_fit.told(callbacks):
            return _run_loop(TRAIN, stock, model, *args, **kwargs)

    model._distribute_strategy.record.initial_epoch = argument_of(stock, "initial_epoch", model, *args, **kwargs) or 0
    with signals.handled(), looking_ahead(stock, model, *args, **kwargs):
        return fit_through_losses(run, model, callbacks)


def _evaluate(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `evaluate`, alone or within `fit`."""
    with looking_ahead(stock, model, *args, **kwargs):
        return _run_loop(TEST, stock, model, *args, **kwargs)


def _run_loop(kind: str, stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `fit` or `evaluate`. If it fails, no step that it started changes the model afterwards."""
    strategy, phase = model._distribute_strategy, _PHASES[kind]
    if kind == TRAIN:
        # What other code did to the rows since the last `fit` is not counted in steps of this model.
        row_version.change()
    with seeds.twins_of(strategy).loop(), steps_of(model).loop(kind), strategy.record.phase(phase):
        return stock(model, *args, **kwargs)


def _metrics_result_or_logs(stock: Method, model: keras.Model, logs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ends an epoch or `evaluate`: waits for all its steps, so that the logs have them."""
    final = steps_of(model).finish()
    return stock(model, logs) if final is None else final_logs(model, final)


def _run_settled(stock: Method, model: keras.Model, *args: object, **kwargs: object) -> object:
    """Runs `save` and similar methods between two steps: a callback may call them within an epoch."""
    steps_of(model).settle()
    return stock(model, *args, **kwargs)


def _predict(stock: Method, model: keras.Model, *args: Any, **kwargs: Any) -> object:
    # A callback may call `predict` within an epoch; it must see the updates of all steps so far.
    steps_of(model).settle()
    predict = eager_steps.predict if eager_steps.runs_eagerly(model) else predicting.predict
    with model._distribute_strategy.record.phase("predict"):
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
        resuming.note_input(model, iterator)
    strategy = model._distribute_strategy
    # BackupAndRestore leaves this set after a resumed `fit`, and the next `fit` would train no epoch.
    model._initial_epoch = 0
    with strategy.scope():
        model_checks.prepare(model, strategy)
        if not eager_steps.runs_eagerly(model):
            building.begin(model, data_batch)
        model_checks.adopt_metrics(model)
        model_checks.check_built(model)
