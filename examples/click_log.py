"""Writes a click log by the minute, as a web site would, for online_ctr.py. Needs numpy and no TensorFlow.

    python examples/click_log.py log --minutes 60
    python examples/click_log.py log --minutes 40 --data day_0.tsv --records 250

Each minute is a folder, named by its time, with two files of lines and an empty file _SUCCESS, which comes last. The
lines are rows of Criteo in their order, or made clicks: label, position on the page, user, item, topic of the item, and
kind of user with topic. Items appear and disappear, and what each kind of user likes drifts.
"""

import argparse
import itertools
import pathlib
import time
from collections.abc import Iterator

import numpy as np

BEGIN_S = 1_767_225_600  # 2026-01-01 00:00 UTC, a multiple of any minute
PARTS = 2  # files of a minute, so that two workers can read

ITEMS = 200  # items on the site at a time
NEW_ITEMS = 8  # items that are replaced every minute, so that an item lives for about 25 minutes
REGULARS = 2000  # users who come again; half of the clicks are of users who never do
KINDS, TOPICS = 6, 10
DRIFT = 0.25  # how far tastes move in a minute; their standard deviation is 1


class Site:
    """A made web site.

    Args:
        seed: what the clicks follow from.
    """

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        self._next_item = 0
        self._items, self._topics = np.zeros(ITEMS, np.int64), np.zeros(ITEMS, np.int64)
        self._quality, self._popularity = np.zeros(ITEMS), np.ones(ITEMS)
        self._replace(np.arange(ITEMS))
        self._taste = self._draw.normal(size=(KINDS, TOPICS))

    def lines(self, records: int) -> list[str]:
        """Returns the lines of the next minute."""
        self._replace(self._draw.choice(ITEMS, NEW_ITEMS, replace=False))
        step = DRIFT * self._draw.normal(size=self._taste.shape)
        self._taste = np.sqrt(1 - DRIFT**2) * self._taste + step
        return self._clicks(records)

    def _replace(self, places: np.ndarray) -> None:
        """Puts new items in the places of old ones."""
        self._items[places] = self._next_item + np.arange(places.size)
        self._next_item += places.size
        self._topics[places] = self._draw.integers(0, TOPICS, places.size)
        self._quality[places] = self._draw.normal(size=places.size)
        self._popularity[places] = self._draw.lognormal(0, 1, places.size)

    def _clicks(self, records: int) -> list[str]:
        draw = self._draw
        shown = draw.choice(ITEMS, records, p=self._popularity / self._popularity.sum())
        passing = draw.integers(REGULARS, 2**40, records)
        users = np.where(draw.random(records) < 0.5, draw.integers(0, REGULARS, records), passing)
        kinds, topics, positions = users % KINDS, self._topics[shown], draw.integers(1, 11, records)
        logits = self._quality[shown] + self._taste[kinds, topics] - 0.5 * np.log(positions) - 0.5
        labels = (draw.random(records) < 1 / (1 + np.exp(-logits))).astype(int)
        cells = zip(labels, positions, users, self._items[shown], topics, kinds * TOPICS + topics, strict=True)
        return ["\t".join(map(str, row)) for row in cells]


def minutes_of_file(path: pathlib.Path, records: int) -> Iterator[list[str]]:
    """Yields the lines of each whole minute of a file."""
    with path.open() as file:
        lines = (line.rstrip("\n") for line in file)
        while len(minute := list(itertools.islice(lines, records))) == records:
            yield minute


def write_minute(folder: pathlib.Path, number: int, lines: list[str]) -> None:
    """Writes the files of a minute, then the mark that they are complete."""
    minute = folder / time.strftime("%Y%m%d%H%M", time.gmtime(BEGIN_S + 60 * number))
    minute.mkdir(parents=True)
    for part in range(PARTS):
        (minute / f"part-{part}.tsv").write_text("\n".join(lines[part::PARTS]) + "\n")
    (minute / "_SUCCESS").touch()


def main() -> None:
    """Writes the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where the minutes appear")
    parser.add_argument("--data", type=pathlib.Path, metavar="FILE", help="rows in the order of time (default: made)")
    parser.add_argument("--minutes", type=int, required=True, help="minutes to write")
    parser.add_argument("--records", type=int, default=1000, help="lines in a minute (default %(default)s)")
    parser.add_argument("--minute-s", type=float, default=1.0, help="seconds that a minute lasts (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of made clicks (default %(default)s)")
    args = parser.parse_args()

    site = Site(args.seed)
    made = (site.lines(args.records) for _ in itertools.count())
    minutes = minutes_of_file(args.data, args.records) if args.data else made
    began_s = time.monotonic()
    for number, lines in enumerate(itertools.islice(minutes, args.minutes)):
        write_minute(args.folder, number, lines)
        time.sleep(max(0.0, began_s + (number + 1) * args.minute_s - time.monotonic()))


if __name__ == "__main__":
    main()
