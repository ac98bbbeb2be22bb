"""Models with tables that grow, beside the same models with fixed tables, and the rows of both."""

import keras
import numpy as np

import tfps

ROWS, DIM = 60, 4


def growing(name, dim=DIM, seed=3, **growth):
    return tfps.layers.DynamicEmbedding(dim, keras.initializers.RandomUniform(seed=seed), name=name, **growth)


def fixed(name, dim=DIM, seed=3, rows=ROWS):
    return keras.layers.Embedding(rows, dim, keras.initializers.RandomUniform(seed=seed), name=name)


def model_of(strategy, layer, optimizer, **options):
    """Two tables of different widths, one of them looked up twice, and a dense layer."""
    keras.utils.set_random_seed(7)
    with strategy.scope():
        inputs = keras.Input((3,), dtype="int64")
        wide, narrow = layer("wide", 4, 3, **options), layer("narrow", 1, 5, **options)
        rows = [keras.layers.Flatten()(wide(inputs[:, :2])), wide(inputs[:, 2]), narrow(inputs[:, 1])]
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(rows)))
        model.compile(optimizer, "mse", metrics=["mae"])
    return model


def counter(strategy, optimizer=None, **growth):
    """A model whose table, with SGD at rate 1, has in each row minus the number of places its id had."""
    with strategy.scope():
        inputs = keras.Input((2,), dtype=growth.pop("dtype", "int64"))
        layer = tfps.layers.DynamicEmbedding(1, "zeros", name="counts", **growth)
        outputs = keras.layers.Lambda(lambda rows: keras.ops.sum(rows, axis=(1, 2)))(layer(inputs))
        model = keras.Model(inputs, outputs)
        # The gradient of each place is 1, whatever the size of the batch.
        model.compile(optimizer or keras.optimizers.SGD(1.0), loss=lambda _, y: keras.ops.sum(y))
    return model


def rows_of(layer):
    """The rows of a layer by id."""
    found = {}
    for ids, rows in layer.rows():
        assert not set(ids.tolist()) & set(found)
        found.update(zip(ids.tolist(), rows, strict=True))
    return found


def table_of(model, path):
    """The rows of a variable by id, of a table that grows or of a matrix."""
    value = next(v for v in [*model.variables, *model.optimizer.variables] if v.path.endswith(path))._value
    if not getattr(value, "grows", False):
        return dict(enumerate(np.asarray(value)))
    return {i: row for chunk in value.scan() for i, row in zip(chunk.ids.tolist(), chunk.rows.numpy(), strict=True)}


def counts_of(ids):
    """How often each id comes, by a dictionary."""
    counts = {}
    for one in np.asarray(ids).reshape(-1).tolist():
        counts[one] = counts.get(one, 0) + 1
    return counts
