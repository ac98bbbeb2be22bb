"""DLRM on parameter servers: dot products of all pairs of embeddings, one of which is made of the numbers.

    python examples/dlrm.py --data day_0.tsv                     a cluster of processes on this machine
    python examples/dlrm.py --data adult.data --format adult --rows 50000 --rate 0.2

Dense layers turn the numbers into a vector of the same width as a row. Its dot products with the rows of the
categories, and theirs with one another, are the input of further dense layers, together with the vector itself. Only
categories have rows: unlike the other click models, this one does not look the numbers up. A step transfers the rows
of its batch alone. clicks.py reads the files and lists their formats.

Source: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation Systems".
"""

import clicks
import keras
import numpy as np


@keras.saving.register_keras_serializable("examples")
class DotProducts(keras.layers.Layer):
    """The dot products of all pairs of vectors: [batch, vectors, dim] -> [batch, pairs]."""

    def call(self, vectors: keras.KerasTensor) -> keras.KerasTensor:
        """Returns each pair once, and no vector's product with itself."""
        count = vectors.shape[1]
        products = keras.ops.matmul(vectors, keras.ops.transpose(vectors, (0, 2, 1)))
        below = np.ravel_multi_index(np.tril_indices(count, -1), (count, count))
        return keras.ops.take(keras.ops.reshape(products, (-1, count * count)), below, axis=1)


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    embedded = keras.layers.Embedding(rows, dim, name="features")(ids[:, len(form.numbers) :])
    # The same layers for large and small numbers need numbers of one scale.
    bottom = clicks.tower(keras.layers.BatchNormalization()(numbers), [*hidden, dim])
    vectors = keras.layers.Concatenate(axis=1)([keras.layers.Reshape((1, dim))(bottom), embedded])
    top = clicks.tower(keras.layers.Concatenate()([bottom, DotProducts()(vectors)]), hidden)
    return keras.Model([ids, numbers], keras.layers.Dense(1, activation="sigmoid")(top))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
