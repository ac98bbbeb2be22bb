"""tfps-plan: where every variable of a model would live, before anything is started.

    tfps-plan model.py --ps 8 --plot plan.png --json plan.json

model.py defines a function `model()`, `build()`, `build_model()` or `make_model()` that returns a Keras model,
compiled if optimizer slots shall count, or it holds one in a variable. A model that has to be called before it has
variables needs a function `inputs()` beside it, which returns what it is called on: `keras.Input`, arrays, or a
`tf.data.Dataset`. No memory is taken for the variables.
"""

import argparse
import pathlib
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from tfps.errors import PlanError, TfpsError
from tfps.placement.advice import advise
from tfps.placement.balancers import GreedyBytes, GreedyBytesAndTraffic, RoundRobin
from tfps.placement.model import Plan
from tfps.placement.report import compare

_FUNCTIONS = ("model", "build", "build_model", "make_model")
_BALANCERS = {"bytes-and-traffic": GreedyBytesAndTraffic, "bytes": GreedyBytes, "round-robin": RoundRobin}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs tfps-plan.

    Args:
        argv: arguments without the program's name; those of the process where None.

    Returns:
        0, or 1 after a message on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        made = _plan_of(args)
        print(made.table(), "", *advise(made, args.workers, args.dense_exchange_every), sep="\n")
        if args.compare:
            print("", compare(Plan.load(args.compare), made), sep="\n")
        _write(made, args)
    except TfpsError as error:
        print(f"tfps-plan: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tfps-plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="Python file that defines the model, or a plan saved with --json")
    parser.add_argument("--ps", type=int, help="parameter servers; those of the plan where `model` is one")
    parser.add_argument("--workers", type=int, help="workers, for the advice on their ratio")
    parser.add_argument(
        "--batch", type=int, default=512, help="examples in a step of one worker (default: %(default)s)"
    )
    parser.add_argument(
        "--dense-exchange-every", type=int, help="steps between exchanges of dense variables (default: 32 / workers)"
    )
    parser.add_argument("--routing", choices=("hash", "mod", "div"), default="hash", help="how rows go to shards")
    parser.add_argument("--balancer", choices=_BALANCERS, default="bytes-and-traffic")
    parser.add_argument("--function", help=f"what defines the model (default: the first of {', '.join(_FUNCTIONS)})")
    parser.add_argument("--json", metavar="FILE", help="save the plan; a strategy can be told to follow it")
    parser.add_argument("--plot", metavar="FILE", help="draw the plan (.png, .svg); needs tfps[plot]")
    parser.add_argument("--compare", metavar="FILE", help="say what differs from a plan saved with --json")
    return parser


def _plan_of(args: argparse.Namespace) -> Plan:
    for name in ("ps", "workers", "batch", "dense_exchange_every"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise PlanError(f"`--{name.replace('_', '-')}` must be at least 1. Received: {value}.")
    if args.model.endswith(".json"):
        return _load(args)
    if args.ps is None:
        raise PlanError("`--ps` must be given with a model. Received: none. Valid: the number of parameter servers.")
    from tfps.keras.planning import plan  # imports TensorFlow, which plans themselves do without

    source = _Source(args.model, args.function)
    chosen = {"balancer": _BALANCERS[args.balancer](), "routing": args.routing}
    return plan(source.model, args.ps, inputs=source.inputs, batch_size=args.batch, **chosen)


def _load(args: argparse.Namespace) -> Plan:
    saved = Plan.load(args.model)
    if args.ps not in (None, saved.num_servers):
        raise PlanError(f"`--ps` must be {saved.num_servers}, as in {args.model}. Received: {args.ps}.")
    return saved


def _write(made: Plan, args: argparse.Namespace) -> None:
    try:
        if args.json:
            made.save(args.json)
        if args.plot:
            from tfps.placement.plot import draw

            draw(made, args.plot)
    except (OSError, ValueError) as error:  # ValueError: matplotlib knows no format of that suffix
        raise PlanError(f"`--json` and `--plot` must be files that can be written. Received: {error}.") from error


class _Source:
    """The user's file: run once, when the model is first asked for, so that describing it covers its top level too."""

    def __init__(self, path: str, function: str | None) -> None:
        self._path, self._function = path, function
        if not pathlib.Path(path).is_file():
            raise PlanError(f"`model` must be a Python file or a saved plan. Received: {path!r}, which is no file.")
        self._names: dict[str, Any] = {}

    def model(self) -> Any:
        """Runs the file and returns its model."""
        sys.path.insert(0, str(pathlib.Path(self._path).resolve().parent))  # as python itself does
        try:
            self._names = runpy.run_path(self._path, run_name="tfps_plan")
            return self._find()
        finally:
            sys.path.pop(0)

    def inputs(self) -> Any:
        """What the file says its model is called on; None if it says nothing."""
        return self._names["inputs"]() if callable(self._names.get("inputs")) else None

    def _find(self) -> Any:
        import keras

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
    sys.exit(main())
