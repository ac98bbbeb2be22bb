"""A film recommender: recall -> pre-rank -> rank -> fuse, trained on parameter servers, evaluated and served.

    python -m examples.video_recommender train --data ml-latest-small --out funnel
    python -m examples.video_recommender evaluate --data ml-latest-small --out funnel
    python -m examples.video_recommender serve --out funnel

Without --data the ratings are made. README.md, beside this file, says what each stage does and how good it is.
"""

import argparse
import json
import pathlib

import numpy as np

from examples import cluster, movielens

HELD_OUT = 10  # ratings of each user, the latest ones


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.video_recommender",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("train", "evaluate", "serve"))
    parser.add_argument("--data", metavar="FOLDER", help="with ratings.csv and movies.csv (default: made ratings)")
    parser.add_argument("--out", type=pathlib.Path, default="funnel", help="what was trained (default %(default)s)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="where `evaluate` writes its table, too")
    parser.add_argument("--port", type=int, default=8000, help="of `serve` (default %(default)s)")
    cluster.add_arguments(parser)
    return parser.parse_args()


def train(args: argparse.Namespace) -> None:
    """Trains and exports all stages."""
    from examples.video_recommender.train import Trainer

    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    strategy = cluster.make_strategy(args)
    ratings = movielens.load(args.data) if args.data else movielens.synthetic()
    known, _ = movielens.split_by_time(ratings, HELD_OUT)
    print(
        f"{len(known):,} ratings of {known.num_films - 1:,} films by {known.num_users:,} users to learn from",
        flush=True,
    )
    Trainer(None if args.alone else strategy, args.out, known, args.seed).train()
    cluster.print_plan(strategy)


def evaluate(args: argparse.Namespace) -> None:
    """Prints a table of what each stage is worth."""
    from examples.video_recommender import evaluate
    from examples.video_recommender.funnel import Funnel

    ratings = movielens.load(args.data) if args.data else movielens.synthetic()
    known, latest = movielens.split_by_time(ratings, HELD_OUT)
    funnel = Funnel(args.out)
    # The figures of other ratings would be figures of nothing, and might even look right.
    if not (np.array_equal(known.users, funnel.ratings.users) and np.array_equal(known.films, funnel.ratings.films)):
        raise SystemExit(f"--data must be what {args.out} was trained on. Received: {args.data or 'no --data'}.")
    table = evaluate.evaluate(funnel, latest)
    if args.json:
        args.json.write_text(json.dumps(table))
    print(evaluate.text(table))
    print(f"\nto ask it yourself: python -m examples.video_recommender serve --out {args.out}")


def serve(args: argparse.Namespace) -> None:
    """Answers over HTTP."""
    from examples.video_recommender.serve import serve

    serve(args.out, args.port)


if __name__ == "__main__":
    arguments = parse_arguments()
    {"train": train, "evaluate": evaluate, "serve": serve}[arguments.command](arguments)
