"""tfps-dump: shows dumps of training, and finds where two runs part.

    tfps-dump ls dump
    tfps-dump show dump --step 12 --layer deep
    tfps-dump diff one_process cluster --rtol 1e-3
    tfps-dump replay model.py nan

A dump is what `tfps.callbacks.Dump` writes: a path, or a URL that fsspec can open.

`ls` lists the steps of a dump. `show` lists the values of its first step, or of `--step`: their shapes, norms and the
number of elements that are NaN or infinite. `diff` compares two dumps step by step, prints the first step and layer in
which they part, with the relative error, and ends with status 1; with status 0 if they are equal. It compares what both
have, and counts the values that one has alone: with status 1, unless the settings of the other dump (`layers`, `what`)
leave them out. Steps of the same workers are compared, or a run of one process with a cluster by the step number.
`replay` runs a batch that `tfps.callbacks.FirstNaN` has saved, in this process, on the model that a Python file defines
(FILE or FILE:FUNCTION), and prints the first operation and layer whose result is NaN or infinite; it ends with status 1
if there is none.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tfps.checks import check_number
from tfps.cli.command import Command
from tfps.errors import ConfigError, TfpsError

if TYPE_CHECKING:
    from tfps.debug.diff import Alone, Comparison, Difference

COMMAND = Command("tfps-dump", "[flags] ls|show|diff|replay ARGUMENTS", __doc__ or "", intermixed=True)
_FLAGS = COMMAND.flags
_JSON = flags.DEFINE_boolean("json", False, "Of ls, show and diff: print JSON.", flag_values=_FLAGS)
_STEP = flags.DEFINE_integer("step", None, "Of show: the number of the step.", flag_values=_FLAGS)
_WORKER = flags.DEFINE_integer("worker", None, "Of show and replay: the number of the worker.", flag_values=_FLAGS)
_LAYER = flags.DEFINE_string("layer", None, "Of show: the path of a layer, with those in it.", flag_values=_FLAGS)
_RTOL = flags.DEFINE_float("rtol", 1e-4, "Of diff: the largest relative error that is equal.", flag_values=_FLAGS)
_ATOL = flags.DEFINE_float("atol", 1e-7, "Of diff: the largest difference that is equal.", flag_values=_FLAGS)
_OF_COMMANDS = {
    "ls": {"json"},
    "show": {"json", "step", "worker", "layer"},
    "diff": {"json", "rtol", "atol"},
    "replay": {"worker"},
}
_ARGUMENTS = {"ls": "DUMP", "show": "DUMP", "diff": "DUMP DUMP", "replay": "FILE DUMP"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs tfps-dump.

    Args:
        argv: the arguments without the name of the command; None for the arguments of the process.

    Returns:
        The exit status: 1 after a message on standard error, and as the help text says.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong argument or flag.
    """
    return _run(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """Runs `main` as an absl program, which ends the process. The installed script calls this."""
    COMMAND.run(_run)


def _run(arguments: list[str]) -> int:
    commands: dict[str, Callable[..., int]] = {"ls": _list, "show": _show, "diff": _diff, "replay": _replay}
    _, *given = arguments
    if not given or given[0] not in commands:
        COMMAND.fail(f"a command must be given: {', '.join(commands)}. Received: {given}.")
    command, *rest = given
    if len(rest) != len(_ARGUMENTS[command].split()):
        COMMAND.fail(f"{command} needs {_ARGUMENTS[command]}. Received: {rest}.")
    for name in ("json", "step", "worker", "layer", "rtol", "atol"):
        if _FLAGS[name].present and name not in _OF_COMMANDS[command]:
            COMMAND.fail(f"`--{name}` is no flag of {command}.")
    try:
        return commands[command](*rest)
    except TfpsError as error:
        print(f"{COMMAND.name}: {_printable(str(error))}", file=sys.stderr)
        return 1


def _list(url: str) -> int:
    # Imported late, so that `--help` does not wait for them.
    from tfps.debug.reading import DumpReader

    dump = DumpReader(url)
    if _JSON.value:
        steps = [{"step": step, "worker": worker} for step, worker in dump.steps]
        print(json.dumps({**dump.header, "written": steps}, indent=1))
        return 0
    header = dump.header
    print(f"{dump.path}: model {_printable(str(header['model']))}, {header['mode']}, {header['num_workers']} workers")
    print(f"layers: {_printable(', '.join(dump.layers))}; what: {', '.join(header['what'])}")
    for worker in dump.workers:
        numbers = [step for step, one in dump.steps if one == worker]
        size = sum(int(dump.index(step, worker)["bytes"]) for step in numbers)
        print(f"worker {worker}: {len(numbers)} steps, {numbers[0]} to {numbers[-1]}, {size / 1e6:.3f} MB")
    return 0


def _show(url: str) -> int:
    from tfps.debug.reading import DumpReader
    from tfps.errors import DumpError

    dump = DumpReader(url)
    chosen = [
        (step, worker) for step, worker in dump.steps if _STEP.value in (None, step) and _WORKER.value in (None, worker)
    ]
    if not chosen:
        given = " and ".join(f"--{flag.name} {flag.value}" for flag in (_STEP, _WORKER) if flag.value is not None)
        raise DumpError(
            f"`--step` and `--worker` must be of a step that is there. Received: {given or 'none'}. "
            f"Valid: {'; '.join(map(dump.describe_steps, dump.workers)) or 'none, the dump has no step'}."
        )
    index = dump.index(*chosen[0])
    layer = _LAYER.value
    entries = [one for one in index["entries"] if layer is None or f"{one['layer']}/".startswith(f"{layer}/")]
    if not entries:
        raise DumpError(f"`--layer` must be a layer of the dump. Received: {layer!r}. Valid: {dump.layers}.")
    if _JSON.value:
        print(json.dumps({**index, "entries": entries}, indent=1))
        return 0
    print(f"step {index['step']} of worker {index['worker']}: {index['file']}")
    for one in entries:
        bad = f"  {one['not_finite']} NaN or infinite" if one["not_finite"] else ""
        line = f"  {one['layer']}  {one['kind']} {one['name']}  {one['dtype']}{one['shape']}  norm {one['norm']:.6g}"
        print(_printable(line + bad))
    return 0


def _diff(first: str, second: str) -> int:
    from tfps.debug.diff import find_parting
    from tfps.debug.reading import DumpReader

    rtol = check_number("--rtol", _RTOL.value, at_least=0)
    atol = check_number("--atol", _ATOL.value, at_least=0)
    found = find_parting(DumpReader(first), DumpReader(second), rtol, atol)
    print(_diff_json(found) if _JSON.value else _printable_lines(_describe(found)))
    return 0 if found.is_equal else 1


def _describe(found: "Comparison") -> list[str]:
    """Returns the lines that `diff` prints."""
    told = f"{found.steps} steps and {found.values} values compared"
    if found.only_parameters:
        told += "; only parameters, because the workers of one run share each step"
    if found.unpaired:
        told += f"; {found.unpaired} steps are in one dump alone"
    alone = [_describe_alone(one) for one in found.alone]
    if not found.differences:
        what = "equal in what both dumps have" if alone else "equal"
        return [f"The runs are {what}: {told}.", *alone]
    (step, ours), (_, theirs) = found.last
    who = f"worker {ours}" if ours == theirs else f"worker {ours} and worker {theirs}"
    first, *others = found.differences
    lines = [f"The runs part at step {step} of {who}, in layer {first.layer!r}: {_describe_difference(first)}."]
    lines += [f"  row {row}: relative error {error:.3g}" for row, error in first.rows]
    lines += ["In the same step:"] * bool(others)
    lines += [f"  {one.layer}: {_describe_difference(one)}" for one in others[:20]]
    lines += [f"  and {len(others) - 20} more"] * (len(others) > 20)
    return [*lines, f"{told}.", *alone]


def _describe_alone(one: "Alone") -> str:
    why = "left out of the other by its settings" if one.is_explained else "and no setting of the other leaves them out"
    more = f" and {len(one.layers) - 20} more" if len(one.layers) > 20 else ""
    layers = ", ".join(layer or "(the model itself)" for layer in one.layers[:20]) + more
    return f"In the {one.dump} dump alone, {why}: {one.values} values, of the layers {layers}."


def _describe_difference(one: "Difference") -> str:
    what = f"{one.kind} {one.name}"
    if one.note:
        return f"{what}, {one.note}"
    return f"{what}, relative error {one.relative:.3g} (largest difference {one.absolute:.3g})"


def _diff_json(found: "Comparison") -> str:
    from dataclasses import asdict

    fields = asdict(found)
    # JSON has no infinity.
    text: str = json.dumps(_without_infinity(fields), indent=1)
    return text


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(one) for one in value]
    return "infinite" if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def _replay(file: str, url: str) -> int:
    from tfps.cli.source import Source
    from tfps.debug.nan_file import read_saved
    from tfps.debug.replay import replay

    # Read first: building a model takes seconds.
    saved = read_saved(url, _WORKER.value)
    path, _, function = file.partition(":")
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"the model must be a Python file, FILE or FILE:FUNCTION. Received: {file!r}.")
    found = replay(Source(path, function or None).model, saved)
    print(_printable_lines(found.lines()))
    return 0 if found.is_not_finite else 1


def _printable_lines(lines: Sequence[str]) -> str:
    return "\n".join(map(_printable, lines))


def _printable(text: str) -> str:
    """Replaces what is no printable character: names come from files, and a terminal obeys some characters."""
    return "".join(one if one.isprintable() else "?" for one in text)


if __name__ == "__main__":
    run()
