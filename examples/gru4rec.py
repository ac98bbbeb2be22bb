"""GRU4Rec on parameter servers: predicts the next item of a user and prints how often it is right.

    python examples/gru4rec.py --data ml-latest-small/ratings.csv       a cluster of processes on this machine
    tfps-launch --ps 2 --workers 2 examples/gru4rec.py --data ...       the same, started from outside

The file has the MovieLens format: a header, then lines of user, item, rating and time, separated by commas. The items
of a user, ordered by time, are cut into sessions. A recurrent network reads a session and, after each item, scores the
next one against random items. There are two tables of items on the parameter servers, one for reading and one for
scoring. A step transfers only the rows of its batch. Every tenth user is held out. The result is recall@20 for these
users, whom the model has never seen: how often the true next item is among the 20 with the highest scores.

Source: Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks"; the loss over random items
is from Hidasi and Karatzoglou 2018.
"""

import argparse

import cluster
import keras
import numpy as np
import tensorflow as tf

HELD_OUT = 10  # every tenth user is held out
LENGTH = 20  # predictions in a session, which has LENGTH + 1 items
DRAWN = 2048  # random items in a step, shared by all its sessions
BEST = 20  # k of recall@k


class GRU4Rec(keras.Model):
    """Scores the true next item and random items, the true one first.

    Args:
        items: the number of items, including item 0, which is padding.
        dim: the floats of an item, and the units of the network.
    """

    def __init__(self, items: int, dim: int) -> None:
        super().__init__()
        self.read = keras.layers.Embedding(items, dim, name="read")
        self.scored = keras.layers.Embedding(items, dim, name="scored")
        self.network = keras.layers.GRU(dim, return_sequences=True)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Returns scores [sessions, length, 1 + drawn].

        Args:
            inputs: the items of each session, [sessions, length]; the next items, [sessions, length]; and random
                items, [drawn].
        """
        session, following, drawn = inputs
        states = self.states(session)
        true = keras.ops.sum(states * self.scored(following), axis=-1, keepdims=True)
        random = keras.ops.matmul(states, keras.ops.transpose(self.scored(drawn)))
        return keras.ops.concatenate([true, random], axis=-1)

    def states(self, session: tf.Tensor) -> tf.Tensor:
        """Returns the state of the network after each item of a session, [sessions, length, dim]."""
        return self.network(self.read(session))


def read_sessions(path: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Reads sessions of `LENGTH` + 1 items, padded with 0.

    Returns:
        The training sessions, the held-out sessions, and the number of items including the padding.
    """
    users, items, times = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1, 3), dtype=np.int64).T
    known, items = np.unique(items, return_inverse=True)
    order = np.lexsort((np.arange(len(times)), times, users))
    starts = np.flatnonzero(np.diff(users[order])) + 1
    parts: tuple[list, list] = ([], [])
    for number, seen in enumerate(np.split(items[order] + 1, starts)):
        # The last item of one session is the first of the next, so that every item but the first is predicted once.
        for first in range(0, len(seen) - 1, LENGTH):
            session = seen[first : first + LENGTH + 1]
            parts[number % HELD_OUT == 0].append(np.pad(session, (0, LENGTH + 1 - len(session))))
    return np.array(parts[False]), np.array(parts[True]), len(known) + 1


def batches(sessions: np.ndarray, items: int, batch: int) -> tf.data.Dataset:
    """Makes batches of sessions with random items.

    The dataset consists of TensorFlow operations only, so the workers can run it.
    """

    def add_random_items(rows: tf.Tensor) -> tuple:
        drawn = tf.random.uniform([DRAWN], 1, items, tf.int64)
        following = rows[:, 1:]
        return (rows[:, :-1], following, drawn), tf.zeros_like(following), tf.cast(following > 0, tf.float32)

    rows = tf.data.Dataset.from_tensor_slices(sessions).shuffle(len(sessions))
    return rows.batch(batch, drop_remainder=True).map(add_random_items).prefetch(4)


def recall(model: GRU4Rec, sessions: np.ndarray) -> float:
    """Returns the fraction of next items that are among the `BEST` highest scores."""
    scored = model.scored.get_weights()[0][1:]
    # A copy of the network with its variables on the chief, because all items are scored here.
    network = keras.layers.GRU.from_config(model.network.get_config())
    network.build((None, None, scored.shape[1]))
    network.set_weights(model.network.get_weights())
    read = model.read.get_weights()[0]
    hits = []
    for rows in np.array_split(sessions, max(1, len(sessions) // 64)):
        scores = np.asarray(network(read[rows[:, :-1]])) @ scored.T
        scores, true = scores[rows[:, 1:] > 0], rows[:, 1:][rows[:, 1:] > 0] - 1
        hits.append(np.sum(scores > scores[np.arange(len(true)), true, np.newaxis], axis=1) < BEST)
    return float(np.mean(np.concatenate(hits)))


def popular_recall(training: np.ndarray, sessions: np.ndarray, items: int) -> float:
    """Returns the recall of always predicting the most popular items."""
    counts = np.bincount(training.reshape(-1), minlength=items)
    counts[0] = 0
    return float(np.mean(np.isin(sessions[:, 1:][sessions[:, 1:] > 0], np.argsort(-counts)[:BEST])))


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE", help="lines of user, item, rating and time")
    parser.add_argument("--epochs", type=int, default=15, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="sessions per step (default %(default)s)")
    parser.add_argument("--dim", type=int, default=32, help="floats per item (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate of Adam (default %(default)s)")
    cluster.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Trains the model and prints its recall on held-out users."""
    args = parse_arguments()
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    strategy = cluster.make_strategy(args)
    training, held_out, items = read_sessions(args.data)
    print(f"{len(training):,} sessions to train on, {len(held_out):,} held out, {items - 1:,} items")
    with strategy.scope():
        model = GRU4Rec(items, args.dim)
        # The true item is class 0 of the scores, so the labels are zeros.
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(args.rate), loss=loss)
    model.fit(batches(training, items, args.batch), epochs=args.epochs)

    learned, baseline = recall(model, held_out), popular_recall(training, held_out, items)
    print(f"on held-out sessions: recall@{BEST} {learned:.4f}; recall of the most popular items {baseline:.4f}")
    cluster.print_plan(strategy)


if __name__ == "__main__":
    main()
