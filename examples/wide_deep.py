"""Wide & Deep on parameter servers: a linear model of features and pairs of features, beside dense layers.

    python examples/wide_deep.py --data day_0.tsv                a cluster of processes on this machine
    python examples/wide_deep.py --data adult.data --format adult --rows 50000 --rate 0.2

The wide part has a weight for each feature and for each pair of categories, so it can memorise that two words occur
together. The deep part learns from embeddings, and generalises to pairs that it has not seen. Both parts are tables on
the parameter servers, and a step transfers only the rows of its batch. The paper trains the wide part by FTRL and the
deep part by Adagrad; a Keras model has one optimizer, so here both use Adagrad. clicks.py reads the files and lists
their formats.

Source: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems".
"""

import itertools

import clicks
import keras

CROSSED = 8  # the pairs of the first categories are features of the wide part; all pairs of adult, which has 8


@keras.saving.register_keras_serializable("examples")
class CrossIds(keras.layers.Layer):
    """Makes an id of each pair of ids: [batch, categories] -> [batch, pairs].

    Ids are hashes of a column and a word, so a sum that depends on their order spreads the pairs over the rows.

    Args:
        rows: the number of rows of the table that the pairs get.
    """

    def __init__(self, rows: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rows = rows

    def call(self, ids: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the ids of the pairs."""
        first, second = zip(*itertools.combinations(range(ids.shape[1]), 2), strict=True)
        return (keras.ops.take(ids, first, axis=1) + 31 * keras.ops.take(ids, second, axis=1)) % self.rows

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"rows": self.rows}


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    pairs = CrossIds(rows)(ids[:, len(form.numbers) : len(form.numbers) + CROSSED])
    # The weights of single features and those of pairs are tables of their own, so a pair never hits a feature's row.
    weights = [
        keras.layers.Embedding(rows, 1, embeddings_initializer="zeros", name=name)(keys)
        for name, keys in (("weights", ids), ("pair_weights", pairs))
    ]
    wide = keras.ops.sum(keras.layers.Concatenate(axis=1)(weights), axis=1)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(rows, dim, name="features")(ids))
    deep = clicks.tower(keras.layers.Concatenate()([embedded, numbers]), hidden)
    logit = keras.layers.Add()([wide, keras.layers.Dense(1)(deep)])
    return keras.Model([ids, numbers], keras.layers.Activation("sigmoid")(logit))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
