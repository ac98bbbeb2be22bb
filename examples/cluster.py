"""The command line options of an example for the cluster that it trains on."""

import argparse
import os

import keras
import tensorflow as tf

import tfps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options --ps, --workers, --alone and --seed."""
    parser.add_argument("--ps", type=int, default=2, help="parameter servers, without TF_CONFIG (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers, without TF_CONFIG (default %(default)s)")
    parser.add_argument("--alone", action="store_true", help="train in this process by plain Keras, to compare with")
    parser.add_argument("--seed", type=int, default=1, help="of the first values (default %(default)s)")


def make_strategy(args: argparse.Namespace, **settings) -> tf.distribute.Strategy:
    """Makes a strategy for the cluster in TF_CONFIG, or for processes on this machine.

    In a worker or a parameter server this does not return: the process serves until the chief is done.

    Args:
        args: what `add_arguments` added.
        settings: of the strategy.
    """
    # A fixed seed makes the first values the same in every run. With several workers the order of updates still varies.
    keras.utils.set_random_seed(args.seed)
    if args.alone:
        return tf.distribute.get_strategy()  # TensorFlow's default, which leaves everything to Keras
    cluster = None if os.environ.get("TF_CONFIG") else tfps.LocalCluster(num_ps=args.ps, num_workers=args.workers)
    return tfps.ParameterServerStrategy(cluster, **settings)


def print_plan(strategy: tf.distribute.Strategy) -> None:
    """Prints which server holds each variable."""
    if isinstance(strategy, tfps.ParameterServerStrategy):
        print(strategy.plan.table())
