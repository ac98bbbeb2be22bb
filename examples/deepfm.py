"""DeepFM on parameter servers: a factorisation machine and dense layers over the same embeddings.

    python examples/deepfm.py --data day_0.tsv                   a cluster of processes on this machine
    python examples/deepfm.py --data adult.data --format adult --rows 50000 --rate 0.2

The logit is the sum of three terms: a weight per feature, the dot products of all pairs of embeddings, and a network
over the concatenated embeddings. The weights are a second table with one float per row. A step transfers the rows of
its batch from both tables in one request. clicks.py reads the files and lists their formats.

Source: Guo et al. 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction".
"""

import clicks
import keras


@keras.saving.register_keras_serializable("examples")
class PairwiseProducts(keras.layers.Layer):
    """Sums the dot products of all pairs of rows: [batch, rows, dim] -> [batch, 1].

    (a + b + c)^2 - a^2 - b^2 - c^2 = 2 (ab + ac + bc), so the cost is linear in the number of rows, not quadratic.
    """

    def call(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the sum for each example."""
        squared_sum = keras.ops.square(keras.ops.sum(rows, axis=1))
        sum_of_squares = keras.ops.sum(keras.ops.square(rows), axis=1)
        return 0.5 * keras.ops.sum(squared_sum - sum_of_squares, axis=-1, keepdims=True)


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    weights = keras.layers.Embedding(rows, 1, embeddings_initializer="zeros", name="weights")(ids)
    factors = keras.layers.Embedding(rows, dim, name="factors")(ids)
    deep = clicks.tower(keras.layers.Concatenate()([keras.layers.Flatten()(factors), numbers]), hidden)
    logit = keras.layers.Add()(
        [
            keras.layers.Lambda(lambda rows: keras.ops.sum(rows, axis=1), output_shape=(1,))(weights),
            PairwiseProducts()(factors),
            keras.layers.Dense(1)(deep),
        ]
    )
    return keras.Model([ids, numbers], keras.layers.Activation("sigmoid")(logit))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
