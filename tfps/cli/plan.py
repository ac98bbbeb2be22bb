"""tfps-plan: where every variable of a model would live, before anything is started.

    tfps-plan model.py --ps 8 --plot plan.png --json plan.json

model.py defines a function `model()`, `build()`, `build_model()` or `make_model()` that returns a Keras model, or it
has one in a variable. Compile the model if the plan shall count its optimizer slots. A model that has no variables
before it is called needs a function `inputs()` beside it, which returns what to call it on: `keras.Input`, arrays,
or a `tf.data.Dataset`. The variables take no memory.

In place of model.py, a plan that was saved with --json may be given.
"""

import pathlib
import runpy
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tfps.cli.command import Command, define_alias
from tfps.errors import PlanError, TfpsError
from tfps.placement.advice import advise
from tfps.placement.balancers import GreedyBytes, GreedyBytesAndTraffic, RoundRobin
from tfps.placement.model import Plan
from tfps.placement.report import compare

if TYPE_CHECKING:
    import keras

_FUNCTIONS = ("model", "build", "build_model", "make_model")
_BALANCERS = {"bytes-and-traffic": GreedyBytesAndTraffic, "bytes": GreedyBytes, "round-robin": RoundRobin}

COMMAND = Command("tfps-plan", "[flags] model.py|plan.json", __doc__ or "", intermixed=True)
_FLAGS = COMMAND.flags
_PS = flags.DEFINE_integer("ps", None, "Parameter servers; a saved plan knows its own.", flag_values=_FLAGS)
_WORKERS = flags.DEFINE_integer("workers", None, "Workers, for the advice on their ratio.", flag_values=_FLAGS)
# Lookups and rows a step follow from the batch, so it decides how tables are weighed against dense variables.
_BATCH = flags.DEFINE_integer("batch", 512, "Examples in a step of one worker (default 512).", flag_values=_FLAGS)
_EXCHANGE = flags.DEFINE_integer(
    "dense-exchange-every",
    None,
    "Steps between dense exchanges (default 32 / workers).",
    flag_values=_FLAGS,
)
define_alias(_FLAGS, "dense-exchange-every")
_ROUTING = flags.DEFINE_enum(
    "routing", "hash", ("hash", "mod", "div"), "How rows go to shards (default hash).", flag_values=_FLAGS
)
_BALANCER = flags.DEFINE_enum(
    "balancer", "bytes-and-traffic", list(_BALANCERS), "What the servers' loads are compared by.", flag_values=_FLAGS
)
_FUNCTION = flags.DEFINE_string(
    "function", None, f"What defines the model (default the first of {', '.join(_FUNCTIONS)}).", flag_values=_FLAGS
)
_JSON = flags.DEFINE_string("json", None, "Save the plan in this file; a strategy can follow it.", flag_values=_FLAGS)
_PLOT = flags.DEFINE_string("plot", None, "Draw the plan (.png, .svg); needs tfps[plot].", flag_values=_FLAGS)
_COMPARE = flags.DEFINE_string("compare", None, "Say what differs from a plan saved with --json.", flag_values=_FLAGS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs tfps-plan.

    Args:
        argv: arguments without the command's name; those of the process where None.

    Returns:
        0, or 1 after a message on standard error.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong flag.
    """
    return _show(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """What the installed script calls: `main` as an absl program, which ends the process."""
    COMMAND.run(_show)


def _show(arguments: list[str]) -> int:
    if len(arguments) != 2:
        COMMAND.fail(f"one model file or saved plan must be given. Received: {arguments[1:]}.")
    try:
        made = _plan_of(arguments[1])
        print(made.table(), "", *advise(made, _WORKERS.value, _EXCHANGE.value), sep="\n")
        if _COMPARE.value:
            print("", compare(Plan.load(_COMPARE.value), made), sep="\n")
        _write(made)
    except TfpsError as error:
        print(f"tfps-plan: {error}", file=sys.stderr)
        return 1
    return 0


def _plan_of(model: str) -> Plan:
    # Not by flag parsers, so that a bad number ends with status 1 and one line, as a bad model does.
    for flag in (_PS, _WORKERS, _BATCH, _EXCHANGE):
        if flag.value is not None and flag.value < 1:
            raise PlanError(f"`--{flag.name}` must be at least 1. Received: {flag.value}.")
    if model.endswith(".json"):
        return _load(model)
    if _PS.value is None:
        raise PlanError("`--ps` must be given with a model. Received: none. Valid: the number of parameter servers.")
    from tfps.keras.planning import plan  # imports TensorFlow, which plans themselves do without

    source = _Source(model, _FUNCTION.value)
    balancer = _BALANCERS[_BALANCER.value]()
    return plan(
        source.model,
        _PS.value,
        inputs=source.inputs,
        batch_size=_BATCH.value,
        balancer=balancer,
        routing=_ROUTING.value,
    )


def _load(path: str) -> Plan:
    saved = Plan.load(path)
    if _PS.value not in (None, saved.num_servers):
        raise PlanError(f"`--ps` must be {saved.num_servers}, as in {path}. Received: {_PS.value}.")
    return saved


def _write(made: Plan) -> None:
    try:
        if _JSON.value:
            made.save(_JSON.value)
        if _PLOT.value:
            from tfps.placement.plot import draw

            draw(made, _PLOT.value)
    except (OSError, ValueError) as error:  # ValueError: matplotlib knows no format of that suffix
        raise PlanError(f"`--json` and `--plot` must be files that can be written. Received: {error}.") from error


class _Source:
    """The user's file.

    It is run when the plan asks for the model, not before: models made at its top level are then described, too, and
    take no memory.
    """

    def __init__(self, path: str, function: str | None) -> None:
        self._path, self._function = path, function
        if not pathlib.Path(path).is_file():
            raise PlanError(f"`model` must be a Python file or a saved plan. Received: {path!r}, which is no file.")
        self._names: dict[str, Any] = {}

    def model(self) -> "keras.Model":
        """Runs the file and returns its model."""
        sys.path.insert(0, str(pathlib.Path(self._path).resolve().parent))  # as python itself does
        try:
            # Not "__main__": the training at the end of the file must not start.
            self._names = runpy.run_path(self._path, run_name="tfps_plan")
            return self._find()
        finally:
            sys.path.pop(0)

    def inputs(self) -> Any:
        """What the file's `inputs()` returns, to call the model on; None if there is no such function."""
        return self._names["inputs"]() if callable(self._names.get("inputs")) else None

    def _find(self) -> "keras.Model":
        import keras

        # A named function wins, then the usual names; a single model under any name comes last.
        for name in [self._function] if self._function else _FUNCTIONS:
            value = self._names.get(name)
            if isinstance(value, keras.Model):
                return value
            if callable(value):
                return value()
        models = [value for value in self._names.values() if isinstance(value, keras.Model)]
        if len(models) == 1 and not self._function:
            return models[0]
        wanted = f"{self._function!r}" if self._function else f"one of {list(_FUNCTIONS)} or a single keras.Model"
        defined = sorted(name for name in self._names if not name.startswith("_"))
        raise PlanError(f"{self._path} must define {wanted}. Received: {len(models)} models and the names {defined}.")


if __name__ == "__main__":
    run()
