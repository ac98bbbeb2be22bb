"""What each mode of training learns, on held-out data, by examples and by time.

    python -m benchmarks.convergence --data DATA --modes one async geo --workers 2 4 --seeds 0 1 2
    python -m benchmarks.convergence --data ... --modes geo --push-every 1 10 100 --merges cap mean --out runs.jsonl
    python -m benchmarks.convergence --table runs.jsonl --plot adult.png
    python -m benchmarks.convergence --grid runs.jsonl

Every run appends a line of JSON to the file of --out. From the lines of such a file --table makes a table of final
figures, --grid a shorter one with a column for each number of workers, and --plot a picture. Each number of workers
has a cluster, which serves all of its runs. Time is measured on this machine, where many workers share few cores.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys

MODES = ("one", "joined", "async", "sync", "geo", "allreduce")
ALONE = ("one", "joined")  # without a cluster
MERGES = ("cap", "mean", "sum")


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    if args.table or args.grid:
        from benchmarks import convergence_report

        lines = pathlib.Path(args.table or args.grid).read_text(encoding="utf-8").splitlines()
        runs = [json.loads(line) for line in lines]
        print(convergence_report.table(runs) if args.table else convergence_report.grid(runs))
        if args.plot:
            convergence_report.draw(runs, args.plot)
        return
    if not args.data:
        raise SystemExit("--data must name the folder with the data sets, unless --table or --grid is given.")
    if args.inner:
        _runs(args)
        return
    for workers in args.workers if set(args.modes) != {"one"} else args.workers[:1]:
        command = [sys.executable, "-m", "benchmarks.convergence", "--inner", *_of_workers(args, workers)]
        subprocess.run(command, check=True)


def _runs(args: argparse.Namespace) -> None:
    """All runs of one number of workers."""
    import keras

    import tfps
    from benchmarks.convergence_run import Mode, Run
    from benchmarks.convergence_tasks import task_named

    (workers,) = args.workers
    keras.mixed_precision.set_global_policy(args.policy)
    task = task_named(args)
    strategy = None
    for name in args.modes:
        variants = itertools.product(args.push_every, args.merges) if name == "geo" else [(None, None)]
        exchanges = args.exchange_every if name == "async" else [0]
        settings = itertools.product(variants, args.rates, exchanges, args.repeated_ids[: 1 if name in ALONE else None])
        for (push_every, merge), rate, every, repeated_ids in settings:
            overlap = args.overlap and name in ("async", "geo")
            repeats = None if name in ALONE else repeated_ids
            mode = Mode(name, push_every, merge, rate, every or None, overlap, repeats, args.optimizer)
            if mode.distributed and strategy is None:
                strategy = tfps.ParameterServerStrategy(
                    tfps.LocalCluster(num_ps=1, num_workers=workers),
                    dense_tables_bytes=args.dense_tables_bytes,
                    embeddings_dtype=args.embeddings_dtype,
                    slots_dtype=args.slots_dtype,
                )
            run = Run(task, mode, workers, strategy if mode.distributed else None)
            stored = {"embeddings_dtype": args.embeddings_dtype, "slots_dtype": args.slots_dtype}
            for seed in args.seeds:
                _note(run.train(seed) | {"policy": args.policy} | stored, args.out)


def _note(result: dict, path: str | None) -> None:
    line = json.dumps(result)
    print(line, flush=True)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _of_workers(args: argparse.Namespace, workers: int) -> list[str]:
    """The command line for one number of workers. "one" needs no cluster, so it runs with the first number only."""
    names = ("modes", "push_every", "merges", "seeds", "rates", "exchange_every", "repeated_ids")
    given = {name: getattr(args, name) for name in names}
    if workers != args.workers[0]:
        given["modes"] = [mode for mode in args.modes if mode != "one"]
    lists = [[f"--{name.replace('_', '-')}", *map(str, values)] for name, values in given.items()]
    out = [*["--overlap"] * args.overlap, *(["--out", args.out] if args.out else [])]
    tables = ["--dense-tables-bytes", str(args.dense_tables_bytes), "--optimizer", args.optimizer]
    tables += ["--policy", args.policy]
    tables += ["--embeddings-dtype", args.embeddings_dtype, "--slots-dtype", args.slots_dtype]
    return ["--data", args.data, "--task", args.task, "--workers", str(workers), *tables, *sum(lists, []), *out]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.convergence", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", help="the folder with the data sets")
    parser.add_argument("--task", choices=("adult", "criteo", "words"), default="adult", help="default %(default)s")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: all")
    parser.add_argument("--workers", nargs="+", type=int, default=[2], help="default 2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--push-every", nargs="+", type=int, default=[20], help="windows of GEO (default 20)")
    parser.add_argument("--merges", nargs="+", choices=MERGES, default=["cap"], help="of GEO (default cap)")
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[1.0], help="factors of the learning rate (default 1)"
    )
    for of in ("embeddings", "slots"):
        parser.add_argument(
            f"--{of}-dtype", choices=("float32", "bfloat16"), default="float32", help="on servers (default float32)"
        )
    parser.add_argument(
        "--exchange-every",
        nargs="+",
        type=int,
        default=[0],
        help="steps between exchanges of dense variables, of async (default 0: the strategy's own)",
    )
    parser.add_argument("--dense-tables-bytes", type=int, default=0, help="of the strategy (default 0: all are tables)")
    parser.add_argument(
        "--repeated-ids", nargs="+", choices=("sum", "each"), default=["sum"], help="of the strategy (default sum)"
    )
    parser.add_argument(
        "--optimizer", choices=("task", "adagrad", "adam"), default="task", help="the task's own, or this one"
    )
    parser.add_argument(
        "--policy",
        choices=("float32", "mixed_bfloat16"),
        default="float32",
        help="dtype policy of the model, also where it is judged (default %(default)s)",
    )
    parser.add_argument("--overlap", action="store_true", help="GEO and async exchange while they train")
    parser.add_argument("--out", help="a file that lines are appended to")
    parser.add_argument("--table", metavar="FILE", help="show what such a file holds, and train nothing")
    parser.add_argument("--grid", metavar="FILE", help="the same, as differences to one process by workers")
    parser.add_argument("--plot", metavar="PNG", help="with --table or --grid: a picture to write")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)  # runs of one number of workers
    return parser


if __name__ == "__main__":
    main()
