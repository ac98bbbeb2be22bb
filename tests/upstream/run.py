"""Runs Keras's own tests inside a tfps scope: what passes without a scope must pass within.

    python tests/upstream/run.py [-k EXPRESSION] [-n PROCESSES] [FILE ...]

The tests come from the source distribution of the installed version of Keras, which pip downloads, and are unpacked in
build/upstream/; nothing of them is in this repository. `chosen.py` says which of them run.
The cluster has one server and one worker, so that results are those of one process. Tests that do not pass within a
scope run again without one: those that do not pass there either say nothing about tfps. `skipped.txt` names the tests
that only pass without a scope, each with the reason. Every other such test makes the run fail, and so does a named one
that passes.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tarfile
from importlib import metadata
from typing import TypeAlias

from chosen import is_chosen

HERE = pathlib.Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "upstream"
PACKAGES = BUILD / "packages"
EXTRAS = (
    *("jax", "jaxlib", "grain", "array-record", "etils", "cloudpickle", "portpicker"),
    *("orbax-checkpoint", "tensorstore", "nest-asyncio", "humanize", "aiofiles", "simplejson", "msgpack"),
)
"""What the tests import, beside what tfps needs. Tests that import PyTorch do not run."""


Outcomes: TypeAlias = dict[str, dict[str, str]]
"""By the name of a test: "outcome" is passed, failed or skipped, and "reason" is the message of a failure."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs Keras's own tests inside a tfps scope.")
    parser.add_argument("files", nargs="*", help="files of keras/src, such as trainers/trainer_test.py; by default all")
    parser.add_argument("-k", default="", help="an expression that chooses tests, as for pytest")
    parser.add_argument("-n", type=int, default=1, help="the processes that run tests; each has a cluster of its own")
    options = parser.parse_args()
    version = metadata.version("keras")
    root = BUILD / f"keras-{version}"
    tests = unpack(version, root)
    if options.files:
        tests = [root / "keras" / "src" / file for file in options.files]
    skipped = read_skipped()
    deselected = [f"--deselect={test}" for test, mark in skipped.items() if mark == "!"]
    within = run(root, list(map(str, tests)), [*deselected, "-k", options.k], options.n, scope=True)
    failed = [test for test, outcome in within.items() if outcome["outcome"] == "failed"]
    # A name with an address is another one in each process: all tests of that function run again.
    again = {test.partition("[")[0] if "0x" in test else test for test in failed}
    without = run(root, sorted(again), [], options.n, scope=False) if failed else {}
    if lost := [test for test in failed if test not in without]:
        sys.exit(f"these tests did not run without a scope: {lost}. {root}/log-without-*.txt say why.")
    return compare(within, without, skipped, whole=not options.files and not options.k)


def unpack(version: str, root: pathlib.Path) -> list[pathlib.Path]:
    """Downloads the source distribution and unpacks its tests; returns those to run.

    Without the other files of the packages, the tests import Keras as it is installed.
    """
    done = root / "unpacked"
    if not done.exists():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wanted = ["--no-deps", "--no-build-isolation", "--no-binary", "keras", f"keras=={version}"]
        subprocess.run([*pip, "download", *wanted, "--dest", str(root)], check=True)
        # Without their dependencies, or other versions of what is installed would come before it.
        subprocess.run([*pip, "install", "--no-deps", "--target", str(PACKAGES), "--upgrade", *EXTRAS], check=True)
        with tarfile.open(root / f"keras-{version}.tar.gz") as archive:
            for member in archive.getmembers():
                if member.name.endswith("_test.py"):
                    # The first part of the name is keras-VERSION.
                    path = root / pathlib.Path(*pathlib.PurePosixPath(member.name).parts[1:])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.extractfile(member).read())
        done.touch()
    source = root / "keras" / "src"
    found = sorted(source.rglob("*_test.py"))
    if not found:
        sys.exit(f"the source distribution of keras {version} holds no tests. Install another release, such as 3.15.1.")
    return [path for path in found if is_chosen(path.relative_to(source), path.read_text())]


def run(root: pathlib.Path, chosen: list[str], options: list[str], processes: int, scope: bool) -> Outcomes:
    """Runs the tests, in as many processes at a time; returns the outcome of each.

    Not by pytest-xdist, which refuses tests whose names differ from process to process.
    """
    parts = [chosen[number::processes] for number in range(processes)]
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        calls = [pool.submit(run_part, root, part, options, number, scope) for number, part in enumerate(parts) if part]
    return {test: outcome for call in calls for test, outcome in call.result().items()}


def run_part(root: pathlib.Path, chosen: list[str], options: list[str], number: int, scope: bool) -> Outcomes:
    """Runs tests in one process of pytest at a time; returns the outcome of each.

    A test that ends its process has failed. The next process runs what is left.
    """
    part = f"{'within' if scope else 'without'}-{number}"
    outcomes = root / f"outcomes-{part}.jsonl"
    outcomes.write_text("")
    environment = os.environ | {
        "UPSTREAM_SCOPE": str(int(scope)),
        "UPSTREAM_OUTCOMES": str(outcomes),
        "UPSTREAM_SOURCE": str(root / "keras" / "src"),
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parents[1], PACKAGES))),
        "KERAS_BACKEND": "tensorflow",
    }
    # Tests keep their module names, because Keras saves and loads their classes by name: importlib takes them from the
    # path below rootdir.
    settings = ["--import-mode=importlib", f"--rootdir={root}", "-c", os.devnull, "-p", "in_scope"]
    # A test that hangs ends its process, with the stacks of all threads.
    limits = ["-o", "faulthandler_timeout=600", "-o", "faulthandler_exit_on_timeout=true"]
    quiet = ["-q", "--tb=short", "-W", "ignore", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    pytest = [sys.executable, "-m", "pytest", *settings, *limits, *quiet]
    name = root / f"log-{part}.txt"
    found: Outcomes = {}
    with open(name, "w") as log:
        while True:
            known = len(found)
            command = [*pytest, *chosen, *options]
            ended = subprocess.run(command, env=environment, cwd=root, stdout=log, stderr=subprocess.STDOUT)
            found = read_outcomes(outcomes)
            # 1: some tests failed; 5: `-k` chose none of this part, or the last one that was left ended the process.
            if ended.returncode in (0, 1, 5):
                return found
            if len(found) == known:
                raise SystemExit(f"pytest ended early, with status {ended.returncode}. {name} says why.")


def read_outcomes(path: pathlib.Path) -> Outcomes:
    """Reads what `in_scope.py` has written; returns the outcome of each test that was started."""
    found: Outcomes = {}
    for line in map(json.loads, path.read_text().splitlines()):
        # A test that passes, but whose teardown fails, has two outcomes.
        if line["test"] not in found or found[line["test"]]["outcome"] != "failed":
            found[line["test"]] = line
    for outcome in found.values():
        if outcome["outcome"] == "started":
            outcome |= {"outcome": "failed", "reason": "The process ended in this test. The log says why."}
    return found


def read_skipped() -> dict[str, str]:
    """Reads `skipped.txt`; returns the mark of each named test: "!" if it must not run, "?" if its outcome varies."""
    lines = [line for line in (HERE / "skipped.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {line.lstrip("?! "): line[0] if line[0] in "?!" else "" for line in lines}


def compare(within: Outcomes, without: Outcomes, skipped: dict[str, str], whole: bool) -> int:
    """Prints the tests that only pass without a scope; returns 1 if one of them is not named, or a named one passes."""
    passed = [test for test, outcome in within.items() if outcome["outcome"] == "passed"]
    only_without = [test for test, outcome in without.items() if outcome["outcome"] == "passed"]
    new = [test for test in only_without if test not in skipped]
    print(f"{len(passed) + len(only_without)} tests pass without a scope, {len(passed)} of them within.")
    print(f"{len(only_without) - len(new)} of the others are named in skipped.txt, {len(new)} are not.")
    for test in new:
        print(f"FAILED {test}: {within[test]['reason']}")
    passes = [test for test, mark in skipped.items() if not mark and test in passed]
    gone = [test for test, mark in skipped.items() if whole and mark != "!" and test not in within]
    stale = [*passes, *gone]
    for test in stale:
        print(f"named in skipped.txt, but passes or does not exist: {test}")
    return 1 if new or stale or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
