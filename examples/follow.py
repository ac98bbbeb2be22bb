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


def main() -> None:
    """Follows the export, and prints a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the path or URL that tfps.callbacks.Export has")
    parser.add_argument("--report-s", type=float, default=10.0, help="seconds between two reports (default 10)")
    args = parser.parse_args()

    draw, reported_s = np.random.default_rng(1), time.monotonic()
    versions, ages_s, lookups_ms = set(), [], []
    with tfps.serving.Follower(args.folder, poll_s=0.1) as follower:
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            if not any(follower.tables.values()):
                continue
            table = max(follower.tables, key=follower.tables.get)
            ids = draw.choice(follower.ids(table), IDS)
            began_s = time.perf_counter()
            follower.lookup(table, ids)
            lookups_ms.append(1000 * (time.perf_counter() - began_s))
            ages_s.append(follower.freshness_s)
            versions.add(follower.version)
            if time.monotonic() - reported_s > args.report_s:
                reported_s = time.monotonic()
                rows = f"{follower.tables[table]:,} rows of step {follower.step}"
                print(f"follower: version {follower.version}, {rows}, {ages_s[-1]:.1f} s old", flush=True)
    if not ages_s:
        raise SystemExit(f"follower: {args.folder} had no version with rows. Last error: {follower.error}.")
    print(
        f"follower: {len(versions)} versions, {len(ages_s):,} lookups of {IDS} rows in {np.median(lookups_ms):.2f} ms; "
        f"freshness: {statistics.median(ages_s):.1f} s in the median, {max(ages_s):.1f} s at most",
        flush=True,
    )


if __name__ == "__main__":
    main()
