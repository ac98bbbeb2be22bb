"""The cluster that an example trains on, as options of its command line."""

import argparse
import os

import keras

import tfps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --ps and --workers."""
    parser.add_argument("--ps", type=int, default=2, help="parameter servers, without TF_CONFIG (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers, without TF_CONFIG (default %(default)s)")


def make_strategy(args: argparse.Namespace) -> tfps.ParameterServerStrategy:
    """A strategy on the cluster of TF_CONFIG, or on processes of this machine.

    In a worker or a parameter server this does not return; the process serves until the chief is done.
    """
    keras.utils.set_random_seed(1)
    cluster = None if os.environ.get("TF_CONFIG") else tfps.LocalCluster(num_ps=args.ps, num_workers=args.workers)
    return tfps.ParameterServerStrategy(cluster)
