"""Pairs a second and CPU time of word2vec on parameter servers, against stock TensorFlow and gensim.

    python -m benchmarks.word2vec --mode geo --ps 1 --workers 2 --vocab 100000 --dim 100 --negatives 5 --batch 1000
    python -m benchmarks.word2vec --baseline gensim
    python -m benchmarks.word2vec --versus stock-loop --rounds 3
    python -m benchmarks.word2vec --versus gensim --data TEXT --wordsim wordsim353.tsv --analogies questions-words.txt

A pair is a word and a neighbour. In --form groups the pairs of a word share its negatives; in --form pairs, and for the
others, each has its own. Prints one line of JSON. Without --data the text is synthetic; workers cut windows and draw
the negatives, except for stock-loop, which gets both done beforehand. With --data each measurement is a whole training,
and the vectors are judged. Where the speed of the machine changes under load, trust only the ratios of --versus.
"""

import argparse
import json
import sys
from typing import Any

from benchmarks.meter import Meter, Reading
from benchmarks.turns import compare, in_checkout, opponent, take_turns
from benchmarks.w2v_contenders import CONTENDERS
from benchmarks.w2v_task import W2vTask
from benchmarks.w2v_text import Corpus, Judges
from benchmarks.w2v_training import TRAININGS, TextRun, TextTask

_SIZES = (
    ("vocab", "different words"),
    ("dim", "floats a vector"),
    ("negatives", "words drawn for each pair"),
    ("batch", "words of text a step, or pairs where --form is pairs"),
    ("push_every", "batches of a window, in GEO mode"),
)
_BASELINES = ("stock-loop", "gensim", "async")


class W2vRun:
    """One contender on one cluster: warmed up when it is made, then measured as often as asked.

    Args:
        name: of the contender.
        task: the work.
        cluster: parameter servers and workers.
        seconds: about how long `measure` takes.
    """

    def __init__(self, name: str, task: W2vTask, cluster: tuple[int, int], seconds: float) -> None:
        self._name, self._task, self._workers = name, task, cluster[1]
        self._contender = CONTENDERS[name](task, *cluster)
        trial = self._whole(100)
        self._train(trial)
        pairs, reading = self._train(trial)
        self._steps = self._whole(seconds * trial / reading.seconds)

    def measure(self) -> dict[str, Any]:
        """Trains for about the given seconds and returns the figures."""
        pairs, reading = self._train(self._steps)
        ours = {"form": self._task.form} if self._name in ("geo", "async") else {}
        geo = {"push_every": self._task.push_every, "merge": self._task.merge} if self._name == "geo" else {}
        return {
            "trainer": self._name,
            **ours,
            **geo,
            "pairs_per_s": round(pairs / reading.seconds),
            "pairs": round(pairs),
            "seconds": round(reading.seconds, 2),
            "cpu_ms_per_1000_pairs": {role: round(1000 * ms / pairs, 3) for role, ms in reading.cpu_ms.items()},
            "loopback_bytes_per_pair_at_most": round(reading.loopback_bytes / pairs),
        }

    def _whole(self, steps: float) -> int:
        """At least so many steps; in GEO mode as many whole windows for each worker."""
        unit = self._task.push_every * self._workers if self._name == "geo" else 1
        return max(1, -int(-steps // unit)) * unit

    def _train(self, steps: int) -> tuple[float, Reading]:
        meter = Meter(self._contender.processes())
        pairs = self._contender.train(steps, meter)
        assert meter.reading is not None
        return pairs, meter.reading


def main() -> None:
    """Runs the command."""
    parser = _parser()
    args = parser.parse_args()
    sides = {args.baseline or args.mode, args.versus or "geo"}
    if args.data and not sides <= TRAININGS.keys():
        parser.error(f"--data is for {' and '.join(TRAININGS)}. Received: {' and '.join(sorted(sides))}.")
    sizes = {name: getattr(args, name) for name, _ in _SIZES}
    task = W2vTask(**sizes, form=args.form, merge=args.merge, overlap=args.overlap)
    if args.versus:
        print(json.dumps(compare(_commands(args), args.rounds, "pairs")))
        return
    run: W2vRun | TextRun
    name, cluster = args.baseline or args.mode, (args.ps, args.workers)
    if args.data:
        judges = Judges(args.wordsim, args.analogies)
        run = TextRun(name, TextTask(Corpus.read(args.data), judges, args.epochs, task), cluster)
    else:
        run = W2vRun(name, task, cluster, args.seconds)
    if args.turns:
        take_turns(run.measure)
    else:
        print(json.dumps(run.measure()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.word2vec", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mode", choices=("geo", "async"), default="geo", help="of tfps (default %(default)s)")
    parser.add_argument("--ps", type=int, default=1, help="parameter servers (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers, or threads of gensim (default %(default)s)")
    for name, meaning in _SIZES:
        flag, default = f"--{name.replace('_', '-')}", getattr(W2vTask, name)
        parser.add_argument(flag, type=int, default=default, help=f"{meaning} (default %(default)s)")
    parser.add_argument(
        "--form", choices=("groups", "pairs"), default=W2vTask.form, help="of a step of tfps (default %(default)s)"
    )
    parser.add_argument("--merge", default=W2vTask.merge, help="of windows, in GEO mode (default %(default)s)")
    parser.add_argument("--overlap", action="store_true", help="GEO: exchange a window while another is trained")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="about how long a measurement takes (default %(default)s)"
    )
    parser.add_argument(
        "--data", metavar="FILE", help="train on this text, a sentence a line, from the beginning each time"
    )
    parser.add_argument("--epochs", type=int, default=10, help="with --data: passes (default %(default)s)")
    parser.add_argument("--wordsim", metavar="FILE", help="with --data: word, word, score by tabs, to judge vectors by")
    parser.add_argument("--analogies", metavar="FILE", help="with --data: questions-words.txt, to judge vectors by")
    parser.add_argument("--baseline", choices=_BASELINES, help="who trains in place of tfps in --mode")
    parser.add_argument(
        "--versus",
        metavar="CONTENDER|CHECKOUT",
        type=lambda text: opponent(text, _BASELINES, "word2vec"),
        help=f"measure --baseline or --mode and this in turns: one of {', '.join(_BASELINES)}, or another checkout",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default %(default)s)")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)  # how --versus runs each side
    return parser


def _commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The two sides of --versus, by name."""
    sizes = ["ps", "workers", *(name for name, _ in _SIZES), "form", "merge", "seconds", "epochs"]
    sizes += [name for name in ("data", "wordsim", "analogies") if getattr(args, name)]
    shared = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in sizes]
    shared += ["--overlap"] * args.overlap
    base = [sys.executable, "-m", "benchmarks.word2vec", "--turns", *shared]
    first = [f"--baseline={args.baseline}"] if args.baseline else [f"--mode={args.mode}"]
    ours = {args.baseline or args.mode: [*base, *first]}
    if args.versus in _BASELINES:
        return ours | {args.versus: [*base, f"--baseline={args.versus}"]}
    return ours | {args.versus: in_checkout(args.versus, [*base, *first])}


if __name__ == "__main__":
    main()
