"""tfps-checkpoint: shows what is in a checkpoint, verifies it, and writes it as safetensors or Parquet.

    tfps-checkpoint ls run
    tfps-checkpoint verify run/ckpt-1200
    tfps-checkpoint export run --to exported --format parquet --tables items --slots

The argument after the command is a checkpoint, or the folder of a run: a path, or a URL that fsspec can open.

`ls` shows each checkpoint with its step, its state and its tables. `verify` reads every file and compares its size and
fingerprint with those of when it was written; it ends with status 1 and the name of the file if one is broken. `export`
writes a checkpoint, of a run the latest one, with the memory of one part of a table (64 MB): safetensors as one file
with tensors in the order of ids, Parquet (which needs pyarrow) as one file a table, with the columns `id` and
`embedding`. Nothing is overwritten. No cluster and no model are needed.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tfps.cli.command import Command
from tfps.errors import CheckpointError, ConfigError, TfpsError

COMMAND = Command("tfps-checkpoint", "[flags] ls|verify|export DIR", __doc__ or "", intermixed=True)
_FLAGS = COMMAND.flags
_JSON = flags.DEFINE_boolean("json", False, "Of ls: print a list of JSON objects.", flag_values=_FLAGS)
_TO = flags.DEFINE_string("to", None, "Of export: the file or folder to write.", flag_values=_FLAGS)
_FORMAT = flags.DEFINE_enum(
    "format", None, ("safetensors", "parquet"), "Of export: safetensors or parquet.", flag_values=_FLAGS
)
_TABLES = flags.DEFINE_list(
    "tables", None, "Of export: tables or layers, with commas between them (default all).", flag_values=_FLAGS
)
_SLOTS = flags.DEFINE_boolean("slots", False, "Of export: the slots of the tables too.", flag_values=_FLAGS)
_OF_COMMANDS = {"ls": {"json"}, "verify": set(), "export": {"to", "format", "tables", "slots"}}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs tfps-checkpoint.

    Args:
        argv: the arguments without the name of the command; None for the arguments of the process.

    Returns:
        0, or 1 after a message on standard error.

    Raises:
        SystemExit: with status 0 after `--help`, 2 after a message that names a wrong argument or flag.
    """
    return _run(COMMAND.parse([COMMAND.name, *(sys.argv[1:] if argv is None else argv)]))


def run() -> None:
    """Runs `main` as an absl program, which ends the process. The installed script calls this."""
    COMMAND.run(_run)


def _run(arguments: list[str]) -> int:
    commands: dict[str, Callable[[str], int]] = {"ls": _list, "verify": _verify, "export": _export}
    if len(arguments) != 3 or arguments[1] not in commands:
        COMMAND.fail(f"a command and a checkpoint must be given. Received: {arguments[1:]}.")
    _, command, path = arguments
    for name in ("json", "to", "format", "tables", "slots"):
        if _FLAGS[name].present and name not in _OF_COMMANDS[command]:
            COMMAND.fail(f"`--{name}` is no flag of {command}.")
    try:
        return commands[command](path)
    except TfpsError as error:
        return _fail(error)


def _fail(problem: object) -> int:
    print(f"tfps-checkpoint: {_printable(str(problem))}", file=sys.stderr)
    return 1


def _list(path: str) -> int:
    # Imported late, so that `--help` does not wait for it.
    from tfps.saving.inspection import find

    found = [_describe(one) for one in find(path)]
    if _JSON.value:
        print(json.dumps(found, indent=1))
        return 0
    for one in found:
        print("\n".join(map(_printable, _lines(one))))
    return 0


def _describe(one: Any) -> dict[str, Any]:
    """Returns what `ls --json` prints of a checkpoint."""
    from tfps.saving.inspection import slot_name, table_bytes

    fields: dict[str, Any] = {
        "name": one.name,
        "path": one.path,
        "state": one.state,
        "problem": one.problem,
        "latest": one.is_latest,
    }
    if one.stored is None:
        return fields
    manifest = one.stored.manifest
    tables = [
        {
            "name": table.columns[0],
            # A table that grows has the rows that it has.
            "rows": sum(part.rows for part in table.parts) if table.routing.takes_any_id else table.routing.rows,
            "saved_rows": sum(part.rows for part in table.parts),
            "width": manifest.variable(table.columns[0]).shape[1],
            "slots": [
                {"name": slot_name(table, column), "width": manifest.variable(column).shape[1]}
                for column in table.columns[1:]
            ],
            "bytes": table_bytes(manifest, table),
        }
        for table in manifest.tables
    ]
    return fields | {
        "step": manifest.step,
        "created": manifest.created,
        "base": manifest.base,
        "bytes": manifest.bytes,
        "variables": len(manifest.variables),
        "writer": dict(manifest.writer),
        "tables": tables,
    }


def _lines(one: dict[str, Any]) -> list[str]:
    """Returns what `ls` prints of a checkpoint."""
    from tfps.placement.text import human_bytes

    state = one["state"] + (", latest" if one["latest"] else "")
    if "step" not in one:
        return [f"{one['name']}  {state}: {one['problem']}"]
    base = f", delta of {one['base']}" if one["base"] else ""
    lines = [
        f"{one['name']}  {state}{base}  step {one['step']:,}  {one['created']}  {human_bytes(one['bytes'])}",
        "  written by " + ", ".join(f"{name} {value}" for name, value in one["writer"].items()),
    ]
    for table in one["tables"]:
        slots = ", ".join(f"{slot['name']} {slot['width']}" for slot in table["slots"]) or "none"
        saved = "" if table["saved_rows"] == table["rows"] else f" ({table['saved_rows']:,} saved)"
        lines.append(
            f"  {table['name']}: {table['rows']:,} rows{saved} of {table['width']}, slots: {slots}, "
            f"{human_bytes(table['bytes'])}"
        )
    return lines


def _verify(path: str) -> int:
    from tfps.saving.inspection import find, verify

    found, failed = find(path), False
    for one in found:
        if one.state == "incomplete":
            print(_printable(f"{one.path} is incomplete: {one.problem}"))
            continue
        try:
            if one.stored is None:
                raise CheckpointError(one.problem)
            print(_printable(f"{one.path} is whole: {verify(one.stored)} files"))
        except CheckpointError as error:
            failed = True
            _fail(error)
    if all(one.state == "incomplete" for one in found):
        return _fail(f"{path} has no complete checkpoint.")
    return 1 if failed else 0


def _export(path: str) -> int:
    if _TO.value is None or _FORMAT.value is None:
        COMMAND.fail("export needs `--to` and `--format`.")
    if "://" in _TO.value:
        raise ConfigError(f"`--to` must be a path. Received: {_TO.value!r}. Valid: a path; copy the files from there.")
    from tfps.saving.inspection import find

    found = find(path)
    # An older one is never taken in place of a latest that is broken.
    by_step = sorted((one for one in found if one.step is not None), key=lambda one: one.step or 0)
    chosen = next((one for one in found if one.is_latest), (by_step or found)[-1])
    if chosen.stored is None:
        raise CheckpointError(chosen.problem if chosen.state == "broken" else f"{chosen.path} is incomplete.")
    # Imported late, because they import TensorFlow.
    from tfps.saving import exports, parquet_files, safetensors_file

    write = {"safetensors": safetensors_file.write, "parquet": parquet_files.write}[_FORMAT.value]
    for file in write(exports.choose(chosen.stored, _TABLES.value, _SLOTS.value), pathlib.Path(_TO.value)):
        print(f"wrote {file}")
    return 0


def _printable(text: str) -> str:
    """Replaces what is no printable character: names come from files, and a terminal obeys some characters."""
    return "".join(one if one.isprintable() else "?" for one in text)


if __name__ == "__main__":
    run()
