"""Each op in C++ against its TensorFlow twin, in one process: `python -m benchmarks.ops --batch 512 --tables 26`.

Prints one JSON line: for each op the CPU milliseconds (user + system) of a call of either, and their ratio. Bags are
also measured the usual way, which copies out a row for each id and then pools. They take turns, so that a machine that
slows down slows all.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfps.nn.combiners import combine
from tfps.ops.apply_rows import apply_rows, pack_update
from tfps.ops.combine_rows import Pooling, combine_rows
from tfps.ops.gather_rows import gather_rows
from tfps.ops.route_unique import route_unique
from tfps.ops.routes import RouteMap, TableRoute
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.placement.routing import Routing

HYPER = {"learning_rate": 0.01, "step": 5.0, "beta_1": 0.9, "beta_2": 0.999, "learning_rate_power": -0.5}


def compiled(function: Callable[..., Any], disabled: str) -> Callable[..., Any]:
    """A graph of the function, built with the library or without."""
    graph = tf.function(function)

    def call(*args: Any) -> Any:
        os.environ["TFPS_DISABLE_OPS"] = disabled
        return graph(*args)

    return call


def cpu_s() -> float:
    """CPU seconds of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@dataclasses.dataclass(frozen=True)
class Case:
    """An op and its arguments; `expanding`, if given, computes the same from a row for each id."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    expanding: Callable[..., Any] | None = None


def compare(case: Case, rounds: int, calls: int) -> dict[str, float]:
    """Medians over rounds in which all ways run `calls` times each; ratios are to the library."""
    args = case.args
    ways = {"library": compiled(case.function, "0"), "tensorflow": compiled(case.function, "1")}
    if case.expanding is not None:
        ways["expanding"] = compiled(case.expanding, "0")
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        call(*args)
    for _ in range(rounds):
        for name, call in ways.items():
            start = cpu_s()
            for _ in range(calls):
                call(*args)
            spent[name].append((cpu_s() - start) / calls * 1e3)
    cpu_ms = {name: round(statistics.median(values), 4) for name, values in spent.items()}
    ratios = {
        f"{name} / library": round(statistics.median(t / c for c, t in zip(spent["library"], values, strict=True)), 2)
        for name, values in spent.items()
        if name != "library"
    }
    return {**cpu_ms, **ratios}


def bags_case(options: argparse.Namespace, combiner: str, weighted: bool) -> Case:
    """Bags of all tables pooled, and the gradients of their rows and weights."""
    rng = np.random.default_rng(1)
    elements = options.batch * options.bag
    ids = [np.unique(rng.zipf(1.2, elements) % options.rows, return_inverse=True) for _ in range(options.tables)]
    rows = [tf.ones([len(unique), options.dim]) for unique, _ in ids]
    places = [tf.constant(inverse, tf.int32) for _, inverse in ids]
    segments = tf.constant(np.repeat(np.arange(options.batch), options.bag))
    weights = tf.ones([elements]) if weighted else None

    def pooled(rows: Any, places: Any) -> Any:
        return combine_rows(rows, places, Pooling(segments, options.batch, combiner, weights))

    def expanded(rows: Any, places: Any) -> Any:
        @tf.custom_gradient
        def expand(rows: Any) -> Any:
            return tf.gather(rows, places), lambda g: segment_sum_rows([g], [places], tf.shape(rows, tf.int64)[0])

        return combine(expand(rows), weights, combiner, lambda values: tf.math.segment_sum(values, segments))

    def stepping(pool: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        def step(*rows: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([*rows, weights] if weighted else rows)
                results = [pool(of_table, where) for of_table, where in zip(rows, places, strict=True)]
            return results, tape.gradient(results, [*rows, weights] if weighted else rows)

        return step

    return Case(stepping(pooled), tuple(rows), stepping(expanded))


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """Each op with arguments of the size of a step: zipf ids, rows of every table on one server, Adagrad and Adam."""
    rng = np.random.default_rng(0)
    rows, dim, tables = options.rows, options.dim, options.tables
    ids = [tf.constant(rng.zipf(1.2, options.batch) % rows) for _ in range(tables)]
    servers = tuple(range(options.servers))
    routes = [TableRoute(f"table_{t}", Routing("hash", rows, len(servers)), servers) for t in range(tables)]
    routed = route_unique(RouteMap(tuple(routes), len(servers)), ids)
    request, asked = routed.requests[0], int(routed.answer_rows()[0])
    local = routes[0].routing.shard_rows(0)
    shards = [[tf.Variable(tf.ones([local, dim])) for _ in range(3)] for _ in range(tables)]
    gradients = [tf.ones([options.batch, dim]) for _ in range(tables)]

    def update(name: str) -> Case:
        rule = ROW_RULES[name]
        hyper = tf.constant([HYPER.get(h, 1e-3) for h in rule.hyperparameters] + [0.0])
        variables = [shard[: 1 + len(rule.slots)] for shard in shards]
        message = pack_update(hyper, request, tf.ones([asked, dim]))

        def run(received: Any) -> None:
            apply_rows(rule, variables, received)

        return Case(run, (message,))

    return {
        "route_unique": Case(lambda *i: route_unique(RouteMap(tuple(routes), len(servers)), i).requests, tuple(ids)),
        "gather_rows": Case(lambda r: gather_rows([shard[0] for shard in shards], r), (request,)),
        "segment_sum_rows": Case(
            lambda *g: segment_sum_rows(g, routed.inverse, len(routed.unique_ids)), tuple(gradients)
        ),
        "bags_sum": bags_case(options, "sum", weighted=False),
        "bags_mean_weighted": bags_case(options, "mean", weighted=True),
        **{f"apply_rows_{name}": update(name) for name in ("sgd", "adagrad", "adam", "ftrl")},
    }


def main() -> None:
    """Runs every case and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"batch": 512, "tables": 26, "rows": 100_000, "dim": 10, "servers": 1, "bag": 10}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    result = {name: compare(case, options.rounds, options.calls) for name, case in cases(options).items()}
    print(json.dumps({"cpu_ms": result, **vars(options)}))


if __name__ == "__main__":
    main()
