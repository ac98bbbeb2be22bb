"""DCN v2 on parameter servers: cross layers and dense layers over one table of embeddings.

    python examples/dcn.py --data day_0.tsv                      a cluster of processes on this machine
    python examples/dcn.py --data adult.data --format adult --rows 50000 --rate 0.2

A cross layer applies a matrix to its input and multiplies the result element by element with the first input, so n
layers make products of up to n + 1 features. The cross layers run in parallel to the dense layers, and one unit reads
both. A step transfers only the table rows of its batch; the matrices are dense variables. clicks.py reads the files and
lists their formats.

Source: Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems".
"""

import clicks
import keras

CROSSES = 2


@keras.saving.register_keras_serializable("examples")
class Cross(keras.layers.Layer):
    """Computes x0 * (W x + b) + x, for x0 and x of shape [batch, width]."""

    def build(self, first_shape: tuple, features_shape: tuple) -> None:
        """Creates the matrix."""
        self.dense = keras.layers.Dense(features_shape[-1])
        self.dense.build(features_shape)

    def call(self, first: keras.KerasTensor, features: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the crossed features."""
        return first * self.dense(features) + features


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    embedded = keras.layers.Embedding(rows, dim, name="features")(ids)
    # Products of unscaled numbers would dominate all other products.
    scaled = keras.layers.BatchNormalization()(numbers)
    first = crossed = keras.layers.Concatenate()([keras.layers.Flatten()(embedded), scaled])
    for _ in range(CROSSES):
        crossed = Cross()(first, crossed)
    both = keras.layers.Concatenate()([crossed, clicks.tower(first, hidden)])
    return keras.Model([ids, numbers], keras.layers.Dense(1, activation="sigmoid")(both))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
