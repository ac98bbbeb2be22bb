"""`tfps.choose_strategy` and `tfps.explain_strategy`: the strategy for a model, before anything is started."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfps import env
from tfps.checks import check_callable, check_integer, check_type
from tfps.choice.bandwidth import measure_bandwidth
from tfps.choice.child import keep_runtime_unstarted
from tfps.choice.decide import decide
from tfps.choice.explanation import Explanation
from tfps.choice.footprint import Footprint
from tfps.choice.found import find_site, found_cards
from tfps.choice.hardware import Hardware
from tfps.choice.tasks import Tasks, find_tasks
from tfps.cluster.local import LocalCluster
from tfps.errors import ConfigError, UnsupportedError
from tfps.keras.describe import describe_model, tables_of, without_values
from tfps.keras.multi_optimizer import part_for, unscaled
from tfps.keras.row_optimizers import check
from tfps.keras.step_trace import input_bytes, trace_step
from tfps.placement.small_tables import DENSE_TABLES_BYTES
from tfps.types import Nest

_LOGGER = logging.getLogger("tfps")
_SERVERS = "ParameterServerStrategy"


def choose_strategy(
    build_model: Callable[[], keras.Model],
    batch_size: int,
    *,
    inputs: Nest = None,
    hardware: Hardware | None = None,
) -> tf.distribute.Strategy:
    """Returns the strategy for a model on these machines. Build the model again in its scope.

    `tfps.explain_strategy` returns the same decision as a value, and documents the arguments. The log has it in one
    sentence. Every task of a TF_CONFIG makes this call. Its parameter servers, and the workers beside them, do not
    decide: they serve the chief.

    Args:
        build_model: a function that returns the compiled model. It is called once, and its variables take no memory.
        batch_size: the examples in a step of one replica.
        inputs: the inputs to call the model on, if it does not define them.
        hardware: what is known better than found. It cannot have more hosts or cards than there are.

    Returns:
        A strategy of tfps, whose scope surrounds the model: `tfps.OneDeviceStrategy`, `tfps.MirroredStrategy`,
        `tfps.MultiWorkerMirroredStrategy` or `tfps.ParameterServerStrategy`.

    Raises:
        ConfigError: an argument or TF_CONFIG breaks a rule, no device holds a replica, or the chosen strategy needs
            other machines. Nothing was started.
        PlanError: the model needs `inputs`, or its step cannot be traced.
    """
    tasks = find_tasks()
    _check_arguments(build_model, batch_size, hardware)
    if tasks is not None and tasks.is_server:
        return _make(_SERVERS)
    _check_present(hardware or Hardware(), tasks)
    measured = None
    # Servers of a cluster that has some have started, or start without a word to the chief.
    if tasks is not None and not tasks.servers and (hardware or Hardware()).bandwidth is None:
        measured = measure_bandwidth(tasks)
    explanation = _explain(build_model, batch_size, inputs, hardware, tasks, measured)
    if explanation.refusal:
        raise ConfigError(f"{explanation.refusal} The choice is {explanation.choice}: {explanation.reasons[0]}")
    _LOGGER.info("tfps chose %s", explanation.summary())
    if explanation.choice == _SERVERS and tasks is None:
        # The cluster of this machine that the explanation counts on.
        chosen = explanation.chosen
        workers = chosen.replicas // max(1, explanation.site.cards)
        return _make(_SERVERS, LocalCluster(num_ps=chosen.servers, num_workers=workers))
    return _make(explanation.choice)


def explain_strategy(
    build_model: Callable[[], keras.Model],
    batch_size: int,
    *,
    inputs: Nest = None,
    hardware: Hardware | None = None,
) -> Explanation:
    """Explains which strategy `choose_strategy` would return, and why. It starts nothing and allocates no variable.

    Args:
        build_model: a function that returns the compiled model. It is called once, and its variables take no memory.
        batch_size: the examples in a step of one replica: what `fit` gets as `batch_size` under parameter servers, and
            divided by the number of replicas under the mirrored strategies.
        inputs: the inputs to call the model on, if it does not define them or if their sizes are not known: a structure
            of `keras.Input`, `tf.TensorSpec` or arrays, batch first; a `tf.data.Dataset` of (inputs, labels), if
            labels have another shape than outputs; or a function that returns one of these.
        hardware: the machines to choose for; None for this one, and those of TF_CONFIG.

    Returns:
        The decision. `print` shows it; `to_dict` has every number.

    Raises:
        ConfigError: an argument or TF_CONFIG breaks a rule, or no device holds a replica.
        PlanError: the model needs `inputs`, or its step cannot be traced.

    Example:
        >>> import keras, tfps
        >>> def build():
        ...     ids = keras.Input((3,), dtype="int64")
        ...     model = keras.Sequential([ids, keras.layers.Embedding(10**9, 16), keras.layers.Dense(1)])
        ...     model.compile("adagrad", "mse")
        ...     return model
        >>> hardware = tfps.Hardware(hosts=8, cards=0, host_bytes=64e9)
        >>> tfps.explain_strategy(build, batch_size=512, hardware=hardware).choice
        'ParameterServerStrategy'
    """
    tasks = find_tasks()
    _check_arguments(build_model, batch_size, hardware)
    return _explain(build_model, batch_size, inputs, hardware, tasks)


def _check_arguments(build_model: object, batch_size: object, hardware: object) -> None:
    # A Keras model can be called, too, but its variables are in memory already.
    if isinstance(build_model, keras.Model):
        raise ConfigError(
            "`build_model` must be a function that returns the model, so that no variable takes memory. "
            f"Received: {build_model!r}. Valid: lambda: build(...)."
        )
    # A class of models is a function that makes one, but an instance is rarely compiled; the check below says so.
    if not isinstance(build_model, type):
        check_callable("build_model", build_model, "a function that returns a compiled keras.Model")
    elif not issubclass(build_model, keras.Model):
        raise ConfigError(
            f"`build_model` must be a function that returns a compiled keras.Model. Received: {build_model!r}."
        )
    check_integer("batch_size", batch_size, at_least=1)
    env.refuse_unknown()
    if hardware is not None:
        check_type("hardware", hardware, Hardware, "a tfps.Hardware", valid="None for what is found")


def _check_present(hardware: Hardware, tasks: Tasks | None) -> None:
    """Refuses machines that are not there: a strategy could not be started on them."""
    if hardware.hosts not in (None, 1) and tasks is None:
        raise ConfigError(
            f"`hosts` must be None or 1, because TF_CONFIG names no other host. Received: {hardware.hosts}. "
            "Valid: tfps.explain_strategy, which starts nothing."
        )
    if hardware.cards is not None and hardware.cards > found_cards():
        raise ConfigError(
            f"`cards` must be at most {found_cards()}, as many as TensorFlow finds. Received: {hardware.cards}. "
            "Valid: tfps.explain_strategy, which starts nothing."
        )


def _explain(
    build_model: Callable[[], keras.Model],
    batch_size: int,
    inputs: Nest,
    hardware: Hardware | None,
    tasks: Tasks | None,
    measured: float | None = None,
) -> Explanation:
    # The machines first: an error there comes before the model is built.
    site = find_site(hardware or Hardware(), tasks, measured)

    def find() -> Footprint:
        return find_footprint(build_model, int(batch_size), inputs)

    # A task that all-reduces with others must not have started TensorFlow's runtime.
    all_reduces = tasks is not None and tasks.workers > 1 and not tasks.servers
    return decide(keep_runtime_unstarted(find) if all_reduces else find(), site)


def find_footprint(build_model: Callable[[], keras.Model], batch_size: int, inputs: Nest = None) -> Footprint:
    """Footprint a model without allocating its variables.

    Args:
        build_model: a function that returns the compiled model.
        batch_size: the examples in a step of one replica.
        inputs: as for `explain_strategy`.

    Raises:
        ConfigError: the model is not compiled.
        PlanError: the model needs `inputs`, or its step cannot be traced.
    """

    def work() -> Footprint:
        model = build_model()
        _check_compiled(model)
        given = inputs() if callable(inputs) else inputs
        dataset = given if isinstance(given, tf.data.Dataset) else None
        resolved, specs = describe_model(model, given, batch_size, DENSE_TABLES_BYTES)
        traced = trace_step(model, resolved, batch_size, dataset)
        whole = {id(variable) for variable in traced.whole}
        specs = [
            dataclasses.replace(spec, is_table=False, rows_per_step=None) if id(variable) in whole else spec
            for variable, spec in zip(model.variables, specs, strict=True)
        ]
        return Footprint(
            batch_size,
            tuple(specs),
            traced.counts,
            input_bytes(resolved, batch_size),
            _is_row_wise(model),
            tuple(variable.path for variable in traced.whole),
            _mode_of(model),
        )

    return without_values(work)


def _check_compiled(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise ConfigError(f"`build_model` must return a keras.Model. Received: {model!r}.")
    if getattr(model, "optimizer", None) is None:
        raise ConfigError(
            f"`build_model` must return a compiled model, because slots and activations depend on optimizer and loss. "
            f"Received: {model.name!r}, which is not compiled."
        )


def _is_row_wise(model: keras.Model) -> bool:
    """Whether the optimizer updates single rows of the tables that the model has."""
    try:
        for variable in [variable for own in tables_of(model).values() for variable in own]:
            check(part_for(model.optimizer, variable))
    except UnsupportedError:
        return False
    return True


def _mode_of(model: keras.Model) -> str:
    """Returns the name of the mode that the optimizer is in: "Geo", "Sync", or "" for Keras's own optimizers."""
    settings = getattr(unscaled(model.optimizer), "tfps_mode", None)
    return "" if settings is None else type(settings).prefix


def _make(name: str, *arguments: LocalCluster) -> tf.distribute.Strategy:
    """Makes the strategy of this name."""
    # Imported here, because importing a strategy of tfps installs its hooks in Keras.
    import tfps

    make: Callable[..., Any] = getattr(tfps, name)
    strategy: tf.distribute.Strategy = make(*arguments)
    return strategy
