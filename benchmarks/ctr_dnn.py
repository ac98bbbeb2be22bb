"""Examples a second and CPU time of a click model (CTR-DNN) on parameter servers, against stock TensorFlow.

    python -m benchmarks.ctr_dnn --ps 1 --workers 2 --batch 512 --tables 26 --seconds 5
    python -m benchmarks.ctr_dnn --baseline stock-loop
    python -m benchmarks.ctr_dnn --versus stock-loop --rounds 3
    python -m benchmarks.ctr_dnn --versus ../tfps-before --rounds 5
    python -m benchmarks.ctr_dnn --mode geo
    python -m benchmarks.ctr_dnn --versus matrix-products    how far the MLP's arithmetic alone is
    python -m benchmarks.ctr_dnn --policy mixed_bfloat16 --versus stock-loop
    python -m benchmarks.ctr_dnn --policy mixed_bfloat16 --versus tfps --versus-policy float32

Prints one line of JSON. Where the speed of the machine changes under load, trust only the ratio of --versus: it sets up
both sides at once, runs them in turns, and compares the medians.
"""

import argparse
import json
import sys

from benchmarks.ctr_contenders import CONTENDERS
from benchmarks.ctr_run import CtrRun
from benchmarks.ctr_setup import MODES, WIRES, Setup
from benchmarks.ctr_task import POLICIES, CtrTask
from benchmarks.turns import compare, in_checkout, opponent, take_turns
from tfps.cluster.cpu_features import bfloat16_flags


def main() -> None:
    """Runs the command."""
    args = _parser().parse_args()
    task = CtrTask(args.batch, args.slots, args.tables, args.rows, args.dim, args.policy)
    if args.versus:
        print(json.dumps(compare(_commands(args), args.rounds) | {"cpu_flags": bfloat16_flags()}))
        return
    setup = Setup(args.ps, args.workers, args.mode, args.exchange_every, args.overlap, args.prefetch, args.wire)
    run = CtrRun(args.baseline, task, setup, args.seconds)
    if args.turns:
        take_turns(run.measure)
    else:
        print(json.dumps(run.measure() | {"policy": args.policy, "cpu_flags": bfloat16_flags()}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.ctr_dnn", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ps", type=int, default=1, help="parameter servers (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers (default %(default)s)")
    for name, meaning in (
        ("batch", "examples a step"),
        ("slots", "categorical columns"),
        ("tables", "Embedding layers the slots are spread over"),
        ("rows", "rows of all tables together"),
        ("dim", "floats a row"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=getattr(CtrTask, name), help=f"{meaning} (default %(default)s)"
        )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="about how long a measurement takes (default %(default)s)"
    )
    parser.add_argument("--mode", choices=MODES, default="async", help="how tfps trains (default %(default)s)")
    parser.add_argument("--exchange-every", type=int, help="steps between exchanges of dense variables, of tfps")
    parser.add_argument("--overlap", action="store_true", help="async and GEO: exchange while training")
    parser.add_argument("--prefetch", action="store_true", help="async: ask for rows a step ahead")
    parser.add_argument("--policy", choices=POLICIES, default="float32", help="dtype policy (default %(default)s)")
    parser.add_argument(
        "--versus-policy",
        choices=POLICIES,
        help="dtype policy of the --versus side (default: that of --policy)",
    )
    parser.add_argument(
        "--wire", choices=WIRES, default="float32", help="how rows and deltas cross, of tfps (default %(default)s)"
    )
    parser.add_argument("--baseline", choices=CONTENDERS, default="tfps", help="who trains (default %(default)s)")
    parser.add_argument(
        "--versus",
        metavar="CONTENDER|CHECKOUT",
        type=lambda text: opponent(text, CONTENDERS, "ctr_dnn"),
        help=f"measure --baseline and this in turns: one of {', '.join(CONTENDERS)}, or another checkout of tfps",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default %(default)s)")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)  # how --versus runs each side
    return parser


def _commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The two sides of --versus, by name."""
    sizes = ("ps", "workers", "batch", "slots", "tables", "rows", "dim", "seconds", "mode", "wire")
    shared = [f"--{name}={getattr(args, name)}" for name in sizes]
    shared += [f"--exchange-every={args.exchange_every}"] if args.exchange_every else []
    shared += ["--overlap"] * args.overlap
    shared += ["--prefetch"] * args.prefetch
    base = [sys.executable, "-m", "benchmarks.ctr_dnn", "--turns", *shared]
    ours = [*base, f"--baseline={args.baseline}", *_policy(args.policy)]
    if args.versus in CONTENDERS:
        policy = args.versus_policy or args.policy
        theirs = [*base, f"--baseline={args.versus}", *_policy(policy)]
        return {f"{args.baseline}, {args.policy}": ours, f"{args.versus}, {policy}": theirs}
    return {args.baseline: ours, args.versus: in_checkout(args.versus, ours)}


def _policy(name: str) -> list[str]:
    # An older checkout does not know the flag.
    return [] if name == "float32" else [f"--policy={name}"]


if __name__ == "__main__":
    main()
