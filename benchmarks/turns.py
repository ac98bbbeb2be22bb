"""Compares programs by running them in turns: A B A B, each set up once in a process of its own.

While one runs, the other waits for a line on its standard input. So both see the machine in the same state.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

_RESULT = "turn: "


def opponent(text: str, contenders: Collection[str], module: str) -> str:
    """Checks what `--versus` names: a contender, or the directory of another checkout, such as the commit before.

    Args:
        text: the value of the flag.
        contenders: names of the contenders.
        module: the benchmark, which the other checkout must have as well: "ctr_dnn".

    Returns:
        The contender, or the absolute path of the checkout.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if text in contenders:
        return text
    if (pathlib.Path(text) / "benchmarks" / f"{module}.py").is_file():
        return str(pathlib.Path(text).resolve())
    raise argparse.ArgumentTypeError(
        f"must be one of {sorted(contenders)}, or the directory of another checkout with its C++ ops built. "
        f"Received: {text!r}."
    )


def in_checkout(directory: str, command: Sequence[str]) -> list[str]:
    """The command, run in another checkout: Python finds that one's packages first."""
    return ["env", "-C", directory, *command]


def take_turns(measure: Callable[[], dict[str, Any]]) -> None:
    """The inner side: measures once for every line that comes in, until there are no more."""
    print(_RESULT + "{}", flush=True)
    for _ in sys.stdin:
        print(_RESULT + json.dumps(measure()), flush=True)


def compare(commands: Mapping[str, Sequence[str]], rounds: int, unit: str = "examples") -> dict[str, Any]:
    """Runs two programs that call `take_turns` and compares their `examples_per_s`.

    Args:
        commands: the two programs by name.
        rounds: turns of each.
        unit: what their results count in place of examples.

    Returns:
        The ratios of the medians (first to second) of speed and of CPU time, which other programs disturb less; the
        medians; every result.
    """
    first, second = commands
    speeds, cpu, turns = in_turns(commands, rounds, unit)
    return {
        "of": f"{first} / {second}",
        "ratio": round(speeds[first] / speeds[second], 3),
        "cpu_ratio": round(cpu[first] / cpu[second], 3),
        f"{unit}_per_s": speeds,
        f"cpu_ms_per_1000_{unit}": cpu,
        "turns": turns,
    }


def in_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, unit: str = "examples"
) -> tuple[dict[str, float], ...]:
    """Runs programs that call `take_turns`; arguments as in `compare`.

    Returns:
        For each program the median of `examples_per_s`, that of the CPU milliseconds that all its processes spend on
        1,000 examples, and every result.
    """
    sides = {name: Side(name, command) for name, command in commands.items()}
    try:
        for side in sides.values():
            side.result()
        for _ in range(rounds):
            for side in sides.values():
                side.turn()
        return (
            {name: side.median(lambda r: r[f"{unit}_per_s"]) for name, side in sides.items()},
            {name: round(side.median(lambda r: _cpu_ms(r, unit)), 3) for name, side in sides.items()},
            {name: side.results for name, side in sides.items()},
        )
    finally:
        for side in sides.values():
            side.end()


class Side:
    """One program; `end` must be called.

    Args:
        name: for messages.
        command: the program, which calls `take_turns`.
        environment: its own, where not that of this process.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.results: list[dict[str, Any]] = []
        # The kernel may give each session an equal part of the processor, so each side gets a session of its own.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes)

    @property
    def pid(self) -> int:
        """The process id of the program."""
        return self._process.pid

    def turn(self) -> dict[str, Any]:
        """Has the program measure once; returns what it found."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self.results.append(self.result())
        return self.results[-1]

    def result(self) -> dict[str, Any]:
        """Waits for the program's next result."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_RESULT):
                return json.loads(line.removeprefix(_RESULT))
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()} before its result.")

    def end(self) -> None:
        """Has the program end by itself, and kills it if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def median(self, value: Callable[[dict[str, Any]], float]) -> float:
        """Of all turns."""
        return statistics.median(map(value, self.results))


def _cpu_ms(result: dict[str, Any], unit: str) -> float:
    return float(sum(result[f"cpu_ms_per_1000_{unit}"].values()))
