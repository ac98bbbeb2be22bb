"""SASRec on parameter servers: predicts the next film of a user by self-attention over the earlier ones.

    python examples/sasrec.py --data ml-latest-small             a cluster of processes on this machine
    python examples/sasrec.py                                    the same, on synthetic ratings

Each position of a user's sequence looks back at all positions before it, and its state is to be near the next film. One
table of films serves both for reading and for scoring (tied weights). The paper scores the true film and one random
film; here it is a softmax over the true film and a few hundred random ones, which learns faster. The table is on the
parameter servers, and a step transfers only the rows of its batch. The last film of each user is held out. The result
is HR@10, how often it is among the 10 of all films that the user has not rated which score highest, and NDCG@10.

Source: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation".
"""

import argparse

import cluster
import keras
import movielens
import numpy as np
import ranking
import tensorflow as tf

LENGTH = 50  # films that a position looks back at
DRAWN = 128  # random films that each sequence is scored against
BLOCKS = 2
DROPOUT = 0.2
BEST = 10  # k of HR@k and NDCG@k


def build_models(films: int, dim: int) -> tuple[keras.Model, keras.Model]:
    """Builds the model to train, and the part of it that gives the last state of a sequence, [batch, dim].

    The first scores the true next film and random ones, [batch, length, 1 + drawn], the true one first.
    """
    near = keras.initializers.RandomNormal(0, 0.05)
    table = keras.layers.Embedding(films, dim, embeddings_initializer=near, name="films")
    sequence = keras.Input((LENGTH,), dtype="int64", name="sequence")
    following = keras.Input((LENGTH,), dtype="int64", name="following")
    drawn = keras.Input((DRAWN,), dtype="int64", name="drawn")

    # Padding comes first in a sequence, so only what comes before the first film looks at padding alone.
    known = sequence > 0
    places = keras.ops.cumsum(keras.ops.ones_like(sequence), axis=1) - 1
    states = table(sequence) * dim**0.5 + keras.layers.Embedding(LENGTH, dim, name="places")(places)
    states = keras.layers.Dropout(DROPOUT)(states)
    for _ in range(BLOCKS):
        normal = keras.layers.LayerNormalization()(states)
        attention = keras.layers.MultiHeadAttention(1, dim, dropout=DROPOUT)
        seen = attention(normal, normal, key_mask=known, use_causal_mask=True)
        states = states + keras.layers.Dropout(DROPOUT)(seen)
        hidden = keras.layers.Dense(dim, activation="relu")(keras.layers.LayerNormalization()(states))
        states = states + keras.layers.Dropout(DROPOUT)(keras.layers.Dense(dim)(hidden))
    states = keras.layers.LayerNormalization()(states)

    true = keras.ops.sum(states * table(following), axis=-1, keepdims=True)
    random = keras.ops.einsum("bld,bnd->bln", states, table(drawn))
    scores = keras.ops.concatenate([true, random], axis=-1)
    training = keras.Model({"sequence": sequence, "following": following, "drawn": drawn}, scores)
    return training, keras.Model(sequence, states[:, -1])


def cut(sequences: list[np.ndarray]) -> np.ndarray:
    """Cuts sequences into windows of `LENGTH` + 1 films, [windows, LENGTH + 1], padded with 0 in front.

    The last film of one window is the first of the next, so that every film but the first is predicted once.
    """
    ends = [(films, end) for films in sequences for end in range(len(films), 1, -LENGTH)]
    return np.stack([ranking.pad(films[max(0, end - LENGTH - 1) : end], LENGTH + 1) for films, end in ends])


def batches(windows: np.ndarray, films: int, batch: int) -> tf.data.Dataset:
    """Makes batches of windows with random films. The dataset is made of TensorFlow's operations: workers run it."""

    def add_random_films(rows: tf.Tensor) -> tuple:
        drawn = tf.random.uniform([tf.shape(rows)[0], DRAWN], 1, films, tf.int64)
        inputs = {"sequence": rows[:, :-1], "following": rows[:, 1:], "drawn": drawn}
        # The true film is class 0 of the scores. Padding has no next film.
        return inputs, tf.zeros_like(rows[:, 1:]), tf.cast((rows[:, :-1] > 0), tf.float32)

    rows = tf.data.Dataset.from_tensor_slices(windows).shuffle(len(windows))
    return rows.batch(batch).map(add_random_films).prefetch(4)


def main() -> None:
    """Trains the model and prints how it ranks the last film of each user."""
    args = parse_arguments()
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    # Ids that repeat in a batch count as in Keras, so that the model learns what it learns with --alone.
    strategy = cluster.make_strategy(args, repeated_ids="each")
    ratings = movielens.load(args.data) if args.data else movielens.synthetic()
    earlier, latest = movielens.split_by_time(ratings, 1)
    with strategy.scope():
        model, encoder = build_models(ratings.num_films, args.dim)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(args.rate), loss=loss)
        encoder.compile()
    sequences = movielens.sequences(earlier)
    model.fit(batches(cut(sequences), ratings.num_films, args.batch), epochs=args.epochs)

    table = model.get_layer("films").get_weights()[0]
    states = encoder.predict(np.stack([ranking.pad(films, LENGTH) for films in sequences]), verbose=0)
    hits, ndcg = ranking.rank(states @ table.T, earlier, latest, BEST)
    print(f"on the last film of {len(latest)} users: HR@{BEST} {hits:.4f}, NDCG@{BEST} {ndcg:.4f}")
    cluster.print_plan(strategy)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="with ratings.csv and movies.csv (default: synthetic ratings)")
    parser.add_argument("--epochs", type=int, default=20, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="sequences per step (default %(default)s)")
    parser.add_argument("--dim", type=int, default=64, help="floats per film (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.002, help="learning rate of Adam (default %(default)s)")
    cluster.add_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
