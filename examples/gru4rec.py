"""GRU4Rec on parameter servers: predicts what a user watches next, and prints how often that is right.

    python examples/gru4rec.py --data ml-latest-small/ratings.csv       a cluster of processes on this machine
    tfps-launch --ps 2 --workers 2 examples/gru4rec.py --data ...       the same, started from outside

A line of the file is a user, an item, a rating and a time, between commas, after a line of names (the format of
MovieLens). The items of a user, ordered by time, are cut into sessions. A recurrent network reads a session and, after
each item, scores the next one against items drawn at random. Items have two tables (one to read, one to score), both on
the parameter servers; a step moves the rows of its batch. Every tenth user is held out. The figure is recall@20 on
these users, whom the model has never seen: how often the true next item is among the 20 with the highest scores.

Source: Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks"; the loss over drawn items is
from Hidasi and Karatzoglou 2018.
"""

import argparse

import cluster
import keras
import numpy as np
import tensorflow as tf

HELD_OUT = 10  # one user in so many is held out
LENGTH = 20  # predictions in a session, which has one item more
DRAWN = 2048  # random items a step, shared by its sessions
BEST = 20  # how many of the highest scores count


class GRU4Rec(keras.Model):
    """Scores next items, the true one first.

    Args:
        items: how many there are; item 0 stands for none.
        dim: floats of an item, and units of the network.
    """

    def __init__(self, items: int, dim: int) -> None:
        super().__init__()
        self.read = keras.layers.Embedding(items, dim, name="read")
        self.scored = keras.layers.Embedding(items, dim, name="scored")
        self.network = keras.layers.GRU(dim, return_sequences=True)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Scores [sessions, length, 1 + drawn] for ids [sessions, length], the same of next items, and [drawn]."""
        session, following, drawn = inputs
        states = self.states(session)
        true = keras.ops.sum(states * self.scored(following), axis=-1, keepdims=True)
        random = keras.ops.matmul(states, keras.ops.transpose(self.scored(drawn)))
        return keras.ops.concatenate([true, random], axis=-1)

    def states(self, session: tf.Tensor) -> tf.Tensor:
        """The state of the network after each item of a session: [sessions, length, dim]."""
        return self.network(self.read(session))


def read_sessions(path: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Sessions of `LENGTH` + 1 items, padded with 0: those to train on, those held out, and the number of items."""
    users, items, times = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1, 3), dtype=np.int64).T
    known, items = np.unique(items, return_inverse=True)
    order = np.lexsort((np.arange(len(times)), times, users))
    starts = np.flatnonzero(np.diff(users[order])) + 1
    parts: tuple[list, list] = ([], [])
    for number, seen in enumerate(np.split(items[order] + 1, starts)):
        for first in range(0, len(seen) - 1, LENGTH):  # the last item of one session begins the next
            session = seen[first : first + LENGTH + 1]
            parts[number % HELD_OUT == 0].append(np.pad(session, (0, LENGTH + 1 - len(session))))
    return np.array(parts[False]), np.array(parts[True]), len(known) + 1


def batches(sessions: np.ndarray, items: int, batch: int) -> tf.data.Dataset:
    """Batches of sessions with random items. They are TensorFlow operations alone, so workers make their own."""

    def with_drawn(rows: tf.Tensor) -> tuple:
        drawn = tf.random.uniform([DRAWN], 1, items, tf.int64)
        following = rows[:, 1:]
        return (rows[:, :-1], following, drawn), tf.zeros_like(following), tf.cast(following > 0, tf.float32)

    rows = tf.data.Dataset.from_tensor_slices(sessions).shuffle(len(sessions))
    return rows.batch(batch, drop_remainder=True).map(with_drawn).prefetch(4)


def recall(model: GRU4Rec, sessions: np.ndarray) -> float:
    """The fraction of next items that are among the `BEST` highest scores."""
    scored = model.scored.get_weights()[0][1:]
    network = keras.layers.GRU.from_config(model.network.get_config())  # the same, with its variables on the chief
    network.build((None, None, scored.shape[1]))
    network.set_weights(model.network.get_weights())
    read = model.read.get_weights()[0]
    hits = []
    for rows in np.array_split(sessions, max(1, len(sessions) // 64)):
        scores = np.asarray(network(read[rows[:, :-1]])) @ scored.T
        scores, true = scores[rows[:, 1:] > 0], rows[:, 1:][rows[:, 1:] > 0] - 1
        hits.append(np.sum(scores > scores[np.arange(len(true)), true, np.newaxis], axis=1) < BEST)
    return float(np.mean(np.concatenate(hits)))


def popular(training: np.ndarray, sessions: np.ndarray, items: int) -> float:
    """The recall of always predicting the most popular items."""
    counts = np.bincount(training.reshape(-1), minlength=items)
    counts[0] = 0
    return float(np.mean(np.isin(sessions[:, 1:][sessions[:, 1:] > 0], np.argsort(-counts)[:BEST])))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE", help="user, item, rating and time a line")
    parser.add_argument("--epochs", type=int, default=15, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="sessions a step (default %(default)s)")
    parser.add_argument("--dim", type=int, default=32, help="floats an item (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate of Adam (default %(default)s)")
    cluster.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Trains and reports."""
    args = parse_arguments()
    strategy = cluster.make_strategy(args)  # in a worker or a parameter server this line serves to the end
    training, held_out, items = read_sessions(args.data)
    print(f"{len(training):,} sessions to train on, {len(held_out):,} held out, {items - 1:,} items")
    with strategy.scope():
        model = GRU4Rec(items, args.dim)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # of the true item, number 0
        model.compile(keras.optimizers.Adam(args.rate), loss=loss)
    model.fit(batches(training, items, args.batch), epochs=args.epochs)

    found, known = recall(model, held_out), popular(training, held_out, items)
    print(f"on held-out sessions: recall@{BEST} {found:.4f}; that of the most popular items {known:.4f}")
    print(strategy.plan.table())


if __name__ == "__main__":
    main()
