"""FiBiNET on parameter servers: weighs the fields of an example, and multiplies pairs of them through matrices.

    python examples/fibinet.py --data day_0.tsv                  a cluster of processes on this machine
    python examples/fibinet.py --data adult.data --format adult --rows 50000 --rate 0.2

Two small dense layers (SENET) look at the means of all embeddings and give each field a weight. Then a pair of fields
(a, b) gives the vector (a W) * b, with a matrix W for each field a, from the embeddings as they are and from the
weighted ones. Dense layers read all these vectors, and a weight per feature is added. A step transfers the rows of its
batch from both tables in one request. clicks.py reads the files and lists their formats.

Source: Huang et al. 2019, "FiBiNET: Combining Feature Importance and Bilinear feature Interaction for Click-Through
Rate Prediction".
"""

import clicks
import keras
import numpy as np

REDUCTION = 3  # the first layer of SENET has a third as many units as there are fields


@keras.saving.register_keras_serializable("examples")
class BilinearPairs(keras.layers.Layer):
    """The vectors (a W_a) * b of all pairs of fields: [batch, fields, dim] -> [batch, pairs * dim]."""

    def build(self, shape: tuple) -> None:
        """Creates a matrix for each field."""
        self.matrices = self.add_weight(shape=(shape[1], shape[2], shape[2]), name="matrices")

    def call(self, rows: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the products of each pair, the first field before the second."""
        first, second = np.triu_indices(rows.shape[1], 1)
        turned = keras.ops.einsum("bfd,fde->bfe", rows, self.matrices)
        products = keras.ops.take(turned, first, axis=1) * keras.ops.take(rows, second, axis=1)
        return keras.ops.reshape(products, (-1, len(first) * rows.shape[2]))


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    weights = keras.layers.Embedding(rows, 1, embeddings_initializer="zeros", name="weights")(ids)
    features = keras.layers.Embedding(rows, dim, name="features")(ids)
    squeezed = clicks.tower(keras.ops.mean(features, axis=2), [max(1, form.inputs // REDUCTION), form.inputs])
    weighted = features * keras.layers.Reshape((form.inputs, 1))(squeezed)
    pairs = [BilinearPairs()(features), BilinearPairs()(weighted)]
    deep = clicks.tower(keras.layers.Concatenate()([*pairs, numbers]), hidden)
    logit = keras.layers.Add()([keras.ops.sum(weights, axis=1), keras.layers.Dense(1)(deep)])
    return keras.Model([ids, numbers], keras.layers.Activation("sigmoid")(logit))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
