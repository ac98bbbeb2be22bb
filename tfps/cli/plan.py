"""tfps-plan: shows where every variable of a model would live, before anything is started.

    tfps-plan model.py --ps 8 --plot plan.png --json plan.json

model.py defines a function `model()`, `build()`, `build_model()` or `make_model()` that returns a Keras model, or it
holds a model in a variable. Compile the model if the plan should count optimizer slots. If the model has no variables
before it is called, the file must also define a function `inputs()` that returns the inputs to call it on:
`keras.Input`, arrays, or a `tf.data.Dataset`. The variables take no memory.

A plan that was saved with --json may be given instead of model.py, or the folder of a run or checkpoint: tfps-plan then
says which server was hot, and shows the plan that moves rows away from it at the next restore.

    tfps-plan --strategy model.py --batch 512 --hosts 4 --cards 8 --card-bytes 80e9

explains which strategy suits the compiled model on this machine, or on those that the flags describe: one device,
mirrored over cards or hosts, or parameter servers.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags

from tfps.cli.command import Command, define_alias
from tfps.cli.source import FUNCTIONS, Source
from tfps.cli.strategy import StrategyFlags
from tfps.errors import PlanError, TfpsError
from tfps.placement.advice import advise
from tfps.placement.balancers import GreedyBytes, GreedyBytesAndTraffic, RoundRobin
from tfps.placement.model import Plan
from tfps.placement.report import compare
from tfps.placement.spec import STORED_DTYPES

_BALANCERS = {"bytes-and-traffic": GreedyBytesAndTraffic, "bytes": GreedyBytes, "round-robin": RoundRobin}

COMMAND = Command("tfps-plan", "[flags] model.py|plan.json|RUN", __doc__ or "", intermixed=True)
_FLAGS = COMMAND.flags
_PS = flags.DEFINE_integer(
    "ps", None, "Parameter servers: needed with a model, while a saved plan has its own number.", flag_values=_FLAGS
)
_WORKERS = flags.DEFINE_integer("workers", None, "Workers, for the advice on the ratio to servers.", flag_values=_FLAGS)
# The number of rows that a step looks up depends on the batch size. It weighs tables against dense variables.
_BATCH = flags.DEFINE_integer("batch", 512, "Examples in a step of one worker (default 512).", flag_values=_FLAGS)
_EXCHANGE = flags.DEFINE_integer(
    "dense-exchange-every",
    None,
    "Steps between dense exchanges (default 32 / workers).",
    flag_values=_FLAGS,
)
define_alias(_FLAGS, "dense-exchange-every")
_DENSE_TABLES = flags.DEFINE_integer(
    "dense-tables-bytes", None, "Bytes of tables to plan as dense variables (default 1 MB).", flag_values=_FLAGS
)
define_alias(_FLAGS, "dense-tables-bytes")
_EMBEDDINGS_DTYPE = flags.DEFINE_enum(
    "embeddings-dtype", "float32", STORED_DTYPES, "The type of rows on servers (default float32).", flag_values=_FLAGS
)
define_alias(_FLAGS, "embeddings-dtype")
_SLOTS_DTYPE = flags.DEFINE_enum(
    "slots-dtype", "float32", STORED_DTYPES, "The type of their slots on servers (default float32).", flag_values=_FLAGS
)
define_alias(_FLAGS, "slots-dtype")
_ROUTING = flags.DEFINE_enum(
    "routing", "hash", ("hash", "mod", "div"), "How rows go to shards (default hash).", flag_values=_FLAGS
)
_BALANCER = flags.DEFINE_enum(
    "balancer",
    "bytes-and-traffic",
    list(_BALANCERS),
    "How to measure the load of a server (default bytes-and-traffic).",
    flag_values=_FLAGS,
)
_FUNCTION = flags.DEFINE_string(
    "function",
    None,
    f"The function or variable with the model (default the first of {', '.join(FUNCTIONS)}).",
    flag_values=_FLAGS,
)
_JSON = flags.DEFINE_string("json", None, "Save the plan to this file; a strategy can follow it.", flag_values=_FLAGS)
_PLOT = flags.DEFINE_string("plot", None, "Draw the plan (.png or .svg file); needs tfps[plot].", flag_values=_FLAGS)
_STRATEGY = StrategyFlags(_FLAGS)
_COMPARE = flags.DEFINE_string("compare", None, "Show the differences to a plan saved with --json.", flag_values=_FLAGS)
_OF_PLANS = (
    "ps",
    "workers",
    "dense-exchange-every",
    "dense-tables-bytes",
    "embeddings-dtype",
    "slots-dtype",
    "routing",
    "balancer",
    "plot",
    "compare",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs tfps-plan.

    Args:
        argv: the arguments without the name of the command; None for the arguments of the process.

    Returns:
        0, or 1 after a message on standard error.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong flag.
    """
    return _show(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """Runs `main` as an absl program, which ends the process. The installed script calls this."""
    COMMAND.run(_show)


def _show(arguments: list[str]) -> int:
    if len(arguments) != 2:
        COMMAND.fail(f"one model file or saved plan must be given. Received: {arguments[1:]}.")
    try:
        _STRATEGY.check(_OF_PLANS)
        if _STRATEGY.is_given:
            _explain_strategy(arguments[1])
            return 0
        plan = _make_plan(arguments[1])
        print(plan.table(), "", *advise(plan, _WORKERS.value, _EXCHANGE.value), sep="\n")
        if _COMPARE.value:
            print("", compare(Plan.load(_COMPARE.value), plan), sep="\n")
        _write(plan)
    except TfpsError as error:
        print(f"tfps-plan: {error}", file=sys.stderr)
        return 1
    return 0


def _explain_strategy(model: str) -> None:
    """Prints which strategy suits a model file, and writes it if --json names a file."""
    _check_flags()
    explanation = _STRATEGY.explain(Source(model, _FUNCTION.value), _BATCH.value)
    print(explanation)
    if _JSON.value:
        _write_file(lambda: pathlib.Path(_JSON.value).write_text(explanation.to_json()))


def _check_flags() -> None:
    # Checked here and not by flag parsers, so that a bad number ends with status 1 and one line, as a bad model does.
    for flag in (_PS, _WORKERS, _BATCH, _EXCHANGE):
        if flag.value is not None and flag.value < 1:
            raise PlanError(f"`--{flag.name}` must be at least 1. Received: {flag.value}.")


def _make_plan(model: str) -> Plan:
    """Makes the plan of a model file, or loads a saved plan."""
    _check_flags()
    if model.endswith(".json"):
        return _load(model)
    if pathlib.Path(model).is_dir():
        return _rebalance(model)
    if _PS.value is None:
        raise PlanError("`--ps` must be given with a model. Received: none. Valid: the number of parameter servers.")
    source = Source(model, _FUNCTION.value)
    # Imported late, because it imports TensorFlow: a saved plan or a misspelt name of a file need not wait for that.
    from tfps.keras.planning import plan

    small = {} if _DENSE_TABLES.value is None else {"dense_tables_bytes": _DENSE_TABLES.value}
    balancer = _BALANCERS[_BALANCER.value]()
    return plan(
        source.model,
        _PS.value,
        inputs=source.inputs,
        batch_size=_BATCH.value,
        balancer=balancer,
        routing=_ROUTING.value,
        embeddings_dtype=_EMBEDDINGS_DTYPE.value,
        slots_dtype=_SLOTS_DTYPE.value,
        **small,
    )


def _rebalance(path: str) -> Plan:
    """Prints how even the servers of a run were; returns the plan for its next restore."""
    # Imported late, because they import TensorFlow.
    from tfps.keras.rebalancing import describe_balance, read_placement
    from tfps.placement.rebalance import plan_for

    kept = read_placement(path)
    if kept is None:
        raise PlanError(f"a folder must have a checkpoint that keeps a plan. Received: {path!r}.")
    print(describe_balance(*kept), end="\n\n")
    return plan_for(*kept, kept[0].num_servers if _PS.value is None else _PS.value)


def _load(path: str) -> Plan:
    # A saved plan is for one number of servers, so --ps may only repeat it.
    saved = Plan.load(path)
    if _PS.value not in (None, saved.num_servers):
        raise PlanError(f"`--ps` must be {saved.num_servers}, as in {path}. Received: {_PS.value}.")
    return saved


def _write(plan: Plan) -> None:
    """Writes the files that the flags name."""

    def write() -> None:
        if _JSON.value:
            plan.save(_JSON.value)
        if _PLOT.value:
            # matplotlib is an optional dependency.
            from tfps.placement.plot import draw

            draw(plan, _PLOT.value)

    _write_file(write)


def _write_file(write: Callable[[], object]) -> None:
    """Calls a function that writes files, and names the flags if one cannot be written."""
    try:
        write()
    except (OSError, ValueError) as error:
        # matplotlib raises ValueError for a suffix that it does not know.
        raise PlanError(f"`--json` and `--plot` must be files that can be written. Received: {error}.") from error


if __name__ == "__main__":
    run()
