"""DeepFM on parameter servers: a factorisation machine and dense layers over the same embeddings.

    python examples/deepfm.py --data day_0.tsv                   a cluster of processes on this machine
    python examples/deepfm.py --data adult.data --format adult --rows 50000 --rate 0.2

The logit is a sum of three: a weight a feature, the dot product of every pair of embeddings, and a network over all
embeddings side by side. The weights are a table of their own with one float a row; a step moves the rows of its batch
of both tables, together. How files are read, and what formats there are, is in clicks.py.

Source: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction".
"""

import clicks
import keras


@keras.saving.register_keras_serializable("examples")
class PairwiseProducts(keras.layers.Layer):
    """The sum of the dot products of every two of some rows: [batch, rows, dim] -> [batch, 1].

    Of (a + b + c)^2 the mixed terms are all pairs, twice: linear in the rows instead of quadratic.
    """

    def call(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        """The sums."""
        squared_sum = keras.ops.square(keras.ops.sum(rows, axis=1))
        sum_of_squares = keras.ops.sum(keras.ops.square(rows), axis=1)
        return 0.5 * keras.ops.sum(squared_sum - sum_of_squares, axis=-1, keepdims=True)


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """A plain Keras model; where its variables live is the business of the scope it is made in."""
    ids, numbers = clicks.inputs(form)
    weights = keras.layers.Embedding(rows, 1, embeddings_initializer="zeros", name="weights")(ids)
    factors = keras.layers.Embedding(rows, dim, name="factors")(ids)
    deep = clicks.tower(keras.layers.Concatenate()([keras.layers.Flatten()(factors), numbers]), hidden)
    logit = keras.layers.Add()(
        [
            keras.layers.Lambda(lambda found: keras.ops.sum(found, axis=1), output_shape=(1,))(weights),
            PairwiseProducts()(factors),
            keras.layers.Dense(1)(deep),
        ]
    )
    return keras.Model([ids, numbers], keras.layers.Activation("sigmoid")(logit))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
