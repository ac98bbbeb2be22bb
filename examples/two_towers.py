"""Two towers on parameter servers: vectors of users and films, whose dot products say who will rate what.

    python examples/two_towers.py --data ml-latest-small         a cluster of processes on this machine
    python examples/two_towers.py                                the same, on synthetic ratings

The tower of the users reads who the user is and the films rated before, the tower of the films the film and its genres.
A user of a batch is trained to tell his or her film from the films of all other users of the batch (in-batch
negatives). Popular films are negatives more often, so the logarithm of how often a film occurs is subtracted from its
scores (log-Q correction). The tables are on the parameter servers, and a step transfers only the rows of its batch. The
10 latest ratings of each user are held out. The result is recall@50, how many of them are among the 50 films with the
highest scores of those that the user has not rated before, and NDCG@50.

Source: Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations".
"""

import argparse

import cluster
import keras
import movielens
import numpy as np
import ranking
import tensorflow as tf

HELD_OUT = 10  # ratings of each user
LENGTH = 30  # earlier films that the model reads
BEST = 50  # k of recall@k and NDCG@k
TEMPERATURE = 0.1  # divides dot products of vectors of length 1


@keras.saving.register_keras_serializable("examples")
class BatchScores(keras.layers.Layer):
    """The scores of each user of a batch for each film of the batch, [batch, batch]."""

    def call(
        self, users: keras.KerasTensor, films: keras.KerasTensor, ids: keras.KerasTensor, log_q: keras.KerasTensor
    ) -> keras.KerasTensor:
        """Returns the scores, which are low where the batch has a user's film once more: it is no negative of itself.

        Args:
            users: the vectors of users, [batch, dim].
            films: the vectors of their films, [batch, dim].
            ids: the films, [batch].
            log_q: the logarithm of how often each film occurs, [batch].
        """
        scores = keras.ops.matmul(users, keras.ops.transpose(films)) / TEMPERATURE - log_q
        places = keras.ops.arange(keras.ops.shape(ids)[0])
        again = (ids[:, None] == ids) & (places[:, None] != places)
        return keras.ops.where(again, -1e9, scores)


def tower(features: list[keras.KerasTensor], dim: int) -> keras.KerasTensor:
    """Returns vectors of length 1, [batch, dim]."""
    hidden = keras.layers.Dense(2 * dim, activation="relu")(keras.layers.Concatenate()(features))
    return keras.layers.UnitNormalization()(keras.layers.Dense(dim)(hidden))


def build_models(users: int, films: int, genres: int, dim: int) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Builds the model to train, and its towers of the users and of the films."""
    user = keras.Input((), dtype="int64", name="user")
    earlier = keras.Input((LENGTH,), dtype="int64", name="earlier")
    film = keras.Input((), dtype="int64", name="film")
    its_genres = keras.Input((genres,), name="genres")
    log_q = keras.Input((), name="log_q")
    # Film 0 is padding, and its mask keeps it out of the mean.
    history = keras.layers.Embedding(films, dim, mask_zero=True, name="earlier_films")(earlier)
    of_user = tower(
        [keras.layers.Embedding(users, dim, name="users")(user), keras.layers.GlobalAveragePooling1D()(history)], dim
    )
    of_film = tower([keras.layers.Embedding(films, dim, name="films")(film), its_genres], dim)
    inputs = {"user": user, "earlier": earlier, "film": film, "genres": its_genres, "log_q": log_q}
    training = keras.Model(inputs, BatchScores()(of_user, of_film, film, log_q))
    return training, keras.Model([user, earlier], of_user), keras.Model([film, its_genres], of_film)


def batches(ratings: movielens.Ratings, batch: int) -> tf.data.Dataset:
    """Makes batches of ratings. The film of a user has the user's place in the batch: that is the label."""
    counts = np.bincount(ratings.films, minlength=ratings.num_films)
    columns = {
        "user": ratings.users,
        "earlier": movielens.histories(ratings, LENGTH),
        "film": ratings.films,
        "genres": ratings.genres[ratings.films],
        "log_q": np.log(counts[ratings.films] / len(ratings)).astype(np.float32),
    }
    # The mean over no film at all is no number: the first rating of each user is left out.
    known = columns["earlier"][:, -1] > 0
    columns = {name: values[known] for name, values in columns.items()}
    if batch > np.sum(known):
        raise SystemExit(
            f"--batch must be at most the number of ratings to train on, {np.sum(known)}. Received: {batch}."
        )
    rows = tf.data.Dataset.from_tensor_slices(columns).shuffle(int(np.sum(known))).batch(batch, drop_remainder=True)
    return rows.map(lambda inputs: (inputs, tf.range(batch))).prefetch(4)


def main() -> None:
    """Trains the model and prints how it ranks what each user rated last."""
    args = parse_arguments()
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    # Ids that repeat in a batch count as in Keras, so that the model learns what it learns with --alone.
    strategy = cluster.make_strategy(args, repeated_ids="each")
    ratings = movielens.load(args.data) if args.data else movielens.synthetic()
    earlier, latest = movielens.split_by_time(ratings, HELD_OUT)
    with strategy.scope():
        model, of_user, of_film = build_models(ratings.num_users, ratings.num_films, ratings.genres.shape[1], args.dim)
        model.compile(
            keras.optimizers.Adam(args.rate), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        of_user.compile()
        of_film.compile()
    model.fit(batches(earlier, args.batch), epochs=args.epochs)

    users = np.arange(ratings.num_users)
    seen = np.stack([ranking.pad(films, LENGTH) for films in movielens.sequences(earlier)])
    films = of_film.predict([np.arange(ratings.num_films), ratings.genres], verbose=0)
    scores = of_user.predict([users, seen], verbose=0) @ films.T
    recall, ndcg = ranking.rank(scores, earlier, latest, BEST)
    print(f"on the {HELD_OUT} last films of users: recall@{BEST} {recall:.4f}, NDCG@{BEST} {ndcg:.4f}")
    cluster.print_plan(strategy)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="with ratings.csv and movies.csv (default: synthetic ratings)")
    parser.add_argument("--epochs", type=int, default=8, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=512, help="ratings per step (default %(default)s)")
    parser.add_argument("--dim", type=int, default=32, help="floats per vector (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.002, help="learning rate of Adam (default %(default)s)")
    cluster.add_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
