"""xDeepFM on parameter servers: products of embeddings of any degree, a weight per feature, and dense layers.

    python examples/xdeepfm.py --data day_0.tsv                  a cluster of processes on this machine
    python examples/xdeepfm.py --data adult.data --format adult --rows 50000 --rate 0.2

A compressed interaction network (CIN) multiplies each of its vectors, element by element, with each embedding, and
mixes the products to a few new vectors; layer n so has products of n + 1 embeddings. The logit is the sum of the CIN,
of a weight per feature and of dense layers over the embeddings and the numbers. The weights are a second table. A step
transfers the rows of its batch from both tables in one request. clicks.py reads the files and lists their formats.

Source: Lian et al. 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems".
"""

import clicks
import keras

CIN = (16, 16)  # vectors in each layer of the CIN


@keras.saving.register_keras_serializable("examples")
class Interactions(keras.layers.Layer):
    """One layer of the CIN: rows [batch, fields, dim] and vectors [batch, n, dim] -> [batch, units, dim].

    Args:
        units: the number of new vectors.
    """

    def __init__(self, units: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, rows_shape: tuple, vectors_shape: tuple) -> None:
        """Creates the weights by which the products are mixed."""
        self.mix = self.add_weight(shape=(rows_shape[1], vectors_shape[1], self.units), name="mix")

    def call(self, rows: keras.KerasTensor, vectors: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the new vectors."""
        return keras.ops.einsum("bfd,bnd,fnu->bud", rows, vectors, self.mix)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"units": self.units}


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    weights = keras.layers.Embedding(rows, 1, embeddings_initializer="zeros", name="weights")(ids)
    factors = vectors = keras.layers.Embedding(rows, dim, name="factors")(ids)
    pooled = []
    for units in CIN:
        vectors = Interactions(units)(factors, vectors)
        pooled.append(keras.ops.sum(vectors, axis=2))
    deep = clicks.tower(keras.layers.Concatenate()([keras.layers.Flatten()(factors), numbers]), hidden)
    learned = keras.layers.Dense(1)(keras.layers.Concatenate()([*pooled, deep]))
    logit = keras.layers.Add()([keras.ops.sum(weights, axis=1), learned])
    return keras.Model([ids, numbers], keras.layers.Activation("sigmoid")(logit))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
