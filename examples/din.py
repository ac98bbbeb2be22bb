"""DIN on parameter servers: will a user like a film? The films that this one resembles decide.

    python examples/din.py --data ml-latest-small        a cluster of processes; synthetic ratings without --data

The model reads what the user rated before, and how. A small network, the activation unit, compares each earlier film
with the film in question and gives it a weight, so the sum of the earlier films is another one for each question. The
label is 1 for 4 stars or more. As in the paper some users are held out with all their ratings, and the result is the
AUC among the films of a user, in the mean over users by their ratings (GAUC). Films are rows on the parameter servers,
and a step transfers only the rows of its batch. Instead of the paper's Dice the dense layers use ReLU.

Source: Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction".
"""

import argparse

import cluster
import keras
import movielens
import numpy as np
import tensorflow as tf

import tfps

DROPOUT = 0.3
GROUPS, HELD_OUT = 10, 0  # users are in groups by their number, and one group is held out
LENGTH = 50  # earlier films that the model reads
ADDED, USUAL_STARS = 5, 3.5  # ratings that are added to those of a film: one rating of 5 stars makes no film the best
STARS = 11  # 0, for no film, and 0.5 to 5 in halves


@keras.saving.register_keras_serializable("examples")
class Activation(keras.layers.Layer):
    """The sum of earlier films, weighted by what they have to do with a film: [batch, dim]."""

    def build(self, earlier_shape: tuple, film_shape: tuple, known_shape: tuple) -> None:
        """Creates the network that weighs a film."""
        self.unit = keras.Sequential([keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)])
        self.unit.build((None, LENGTH, 4 * film_shape[-1]))

    def call(self, earlier: keras.KerasTensor, film: keras.KerasTensor, known: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the sums.

        Args:
            earlier: the vectors of earlier films, [batch, length, dim].
            film: the vector of the film, [batch, dim].
            known: 1 for a film and 0 for padding, [batch, length, 1].
        """
        film = keras.ops.broadcast_to(film[:, None, :], keras.ops.shape(earlier))
        compared = keras.ops.concatenate([earlier, film, earlier - film, earlier * film], axis=-1)
        # As in the paper the weights are no softmax: their sum says how much the user cares for such films.
        return keras.ops.sum(self.unit(compared) * known * earlier, axis=1)


def build_model(films: int, genres: int, dim: int) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    inputs = {
        "user": keras.Input((), dtype="int64", name="user"),  # not for the model, but to group the metric
        "film": keras.Input((), dtype="int64", name="film"),
        "genres": keras.Input((genres,), name="genres"),
        "others": keras.Input((2,), name="others"),
        "earlier": keras.Input((LENGTH,), dtype="int64", name="earlier"),
        "stars": keras.Input((LENGTH,), dtype="int64", name="stars"),
    }
    table = keras.layers.Embedding(films, dim, name="films")
    film = table(inputs["film"])
    known = keras.ops.cast(inputs["earlier"] > 0, "float32")[:, :, None]
    # How a film was rated is part of what it says about the user.
    rated = table(inputs["earlier"]) + keras.layers.Embedding(STARS, dim, name="stars_of")(inputs["stars"])
    stars = keras.ops.cast(inputs["stars"], "float32")[:, :, None]
    mean_stars = keras.ops.sum(stars, axis=1) / keras.ops.maximum(keras.ops.sum(known, axis=1), 1)
    features = [Activation()(rated, film, known), film, inputs["genres"], inputs["others"], mean_stars]
    hidden = keras.layers.BatchNormalization()(keras.layers.Concatenate()(features))
    for units in (64, 32):
        hidden = keras.layers.Dropout(DROPOUT)(keras.layers.Dense(units, activation="relu")(hidden))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))


def others(ratings: movielens.Ratings) -> np.ndarray:
    """Returns what others made of the film of each rating: mean stars and log(1 + count), [ratings, 2].

    The others are users of other groups who are not held out, so no rating tells of itself.
    """
    found = np.empty((len(ratings), 2), np.float32)
    groups = ratings.users % GROUPS
    for group in range(GROUPS):
        known = (groups != group) & (groups != HELD_OUT)
        counts = np.bincount(ratings.films[known], minlength=ratings.num_films)
        sums = np.bincount(ratings.films[known], ratings.stars[known], ratings.num_films)
        table = np.stack([(sums + ADDED * USUAL_STARS) / (counts + ADDED), np.log1p(counts)], axis=1)
        found[groups == group] = table[ratings.films[groups == group]]
    return found


def examples(ratings: movielens.Ratings) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the inputs and the label of each rating."""
    halves = np.round(2 * ratings.stars).astype(np.int64)
    inputs = {
        "user": ratings.users,
        "film": ratings.films,
        "genres": ratings.genres[ratings.films],
        "others": others(ratings),
        "earlier": movielens.histories(ratings, LENGTH),
        "stars": movielens.histories(ratings, LENGTH, halves),
    }
    return inputs, ratings.liked


def datasets(ratings: movielens.Ratings, batch: int) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Returns datasets of training batches and of held-out batches."""
    inputs, labels = examples(ratings)
    held_out = ratings.users % GROUPS == HELD_OUT
    parts = [({name: values[rows] for name, values in inputs.items()}, labels[rows]) for rows in (~held_out, held_out)]
    training, testing = (tf.data.Dataset.from_tensor_slices(part) for part in parts)
    return training.shuffle(len(labels)).batch(batch).prefetch(4), testing.batch(batch).prefetch(4)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="with ratings.csv and movies.csv (default: synthetic ratings)")
    parser.add_argument("--epochs", type=int, default=4, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=256, help="ratings per step (default %(default)s)")
    parser.add_argument("--dim", type=int, default=8, help="floats per film (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.001, help="learning rate of Adam (default %(default)s)")
    cluster.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Trains the model and prints its AUC and GAUC on held-out ratings."""
    args = parse_arguments()
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    # Ids that repeat in a batch count as in Keras, so that the model learns what it learns with --alone.
    strategy = cluster.make_strategy(args, repeated_ids="each")
    ratings = movielens.load(args.data) if args.data else movielens.synthetic()
    training, held_out = datasets(ratings, args.batch)
    with strategy.scope():
        model = build_model(ratings.num_films, ratings.genres.shape[1], args.dim)
        metrics = ["auc", tfps.metrics.GroupAUC(by="user")]
        model.compile(keras.optimizers.Adam(args.rate), loss="binary_crossentropy", metrics=metrics)
    model.fit(training, epochs=args.epochs, validation_data=held_out)

    learned = model.evaluate(held_out, return_dict=True, verbose=0)
    print(f"on held-out ratings: GAUC {learned['group_auc']:.4f}, AUC {learned['auc']:.4f}")
    cluster.print_plan(strategy)


if __name__ == "__main__":
    main()
