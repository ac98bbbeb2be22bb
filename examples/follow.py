"""Follows the export of a model and answers lookups beside its training. Needs numpy and pyarrow, and no TensorFlow.

    python examples/follow.py FOLDER          until its standard input is closed, or a line is entered

It asks for random rows of the largest table without a pause, and says every few seconds how old they are.
"""

import argparse
import select
import statistics
import sys
import time

import numpy as np

import tfps.serving

IDS = 100  # ids of a lookup
PAUSE_S = 0.01  # between two lookups: the training needs the processor, too


class Asked:
    """Looks up random rows, and keeps how long each lookup took and how old its rows were."""

    def __init__(self) -> None:
        self._draw = np.random.default_rng(1)
        self.versions: set[int] = set()
        self.ages_s: list[float] = []
        self._times_ms: list[float] = []

    def ask(self, follower: tfps.serving.Follower) -> None:
        """Looks up some rows, if there are any yet."""
        if not any(follower.tables.values()):
            return
        table = max(follower.tables, key=follower.tables.get)
        ids = self._draw.choice(follower.ids(table), IDS)
        began_s = time.perf_counter()
        follower.lookup(table, ids)
        self._times_ms.append(1000 * (time.perf_counter() - began_s))
        self.ages_s.append(follower.freshness_s)
        self.versions.add(follower.version)

    def summary(self) -> str:
        """Returns what was seen, in a line."""
        if not self.ages_s:
            return "no version had rows"
        return (
            f"{len(self.versions)} versions, {len(self.ages_s):,} lookups of {IDS} rows in "
            f"{statistics.median(self._times_ms):.2f} ms; freshness: {statistics.median(self.ages_s):.1f} s in the "
            f"median, {max(self.ages_s):.1f} s at most"
        )


def main() -> None:
    """Follows the export, and prints a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the path or URL that tfps.callbacks.Export has")
    parser.add_argument("--report-s", type=float, default=10.0, help="seconds between two reports (default 10)")
    args = parser.parse_args()

    reported_s = time.monotonic()
    asked = Asked()
    with tfps.serving.Follower(args.folder, poll_s=0.1) as follower:
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            asked.ask(follower)
            if asked.versions and time.monotonic() - reported_s > args.report_s:
                reported_s = time.monotonic()
                rows = f"{sum(follower.tables.values()):,} rows of step {follower.step}"
                print(f"follower: version {follower.version}, {rows}, {asked.ages_s[-1]:.1f} s old", flush=True)
    # The training has ended, and its last version may have come since the last look.
    follower.update()
    asked.ask(follower)
    print(f"follower: {asked.summary()}", flush=True)


if __name__ == "__main__":
    main()
