"""Describing Keras models without their memory: equal to what building them would give, for any size of table."""

import resource

import numpy as np
import pytest

from tfps.errors import PlanError
from tfps.placement.planner import plan
from tfps.placement.spec import VariableSpec

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
from tfps.keras.describe import describe  # noqa: E402


def functional(rows=1000, optimizer="adagrad"):
    ids, dense = keras.Input((5,), dtype="int32"), keras.Input((3,))
    flat = keras.layers.Flatten()(keras.layers.Embedding(rows, 16)(ids))
    hidden = keras.layers.BatchNormalization()(keras.layers.Concatenate()([flat, dense]))
    model = keras.Model([ids, dense], keras.layers.Dense(1)(keras.layers.Dropout(0.1)(hidden)))
    if optimizer:
        model.compile(optimizer, "mse", metrics=["auc"])
    return model


class Subclassed(keras.Model):
    """Two tables, one of them used twice; no variables before it is called."""

    def __init__(self):
        super().__init__()
        self.items = keras.layers.Embedding(50_000, 8)
        self.user = keras.layers.Embedding(300, 8)
        self.top = keras.layers.Dense(1)

    def call(self, inputs):
        clicked = keras.ops.mean(self.items(inputs["clicked"]), axis=1)
        return self.top(clicked * self.items(inputs["item"]) + self.user(inputs["user"]))


SUBCLASSED_INPUTS = {
    "clicked": np.zeros((2, 7), np.int32),
    "item": keras.Input((), dtype="int32"),
    "user": tf.TensorSpec((None,), tf.int32),
}


def test_it_says_what_building_gives():
    keras.utils.clear_session()
    described = describe(functional)
    built = functional().variables
    assert [spec.name for spec in described] == [variable.path for variable in built]
    assert [spec.shape for spec in described] == [tuple(variable.shape) for variable in built]
    assert [spec.dtype for spec in described] == [variable.dtype for variable in built]
    assert [spec.trainable for spec in described] == [variable.trainable for variable in built]
    assert [spec.name for spec in described if spec.is_table] == ["embedding/embeddings"]


def test_a_table_of_ten_billion_rows_takes_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    specs = describe(lambda: functional(10**10))
    assert specs[0].bytes_with_slots == 10**10 * 16 * 4 * 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 200_000  # kB
    plan(specs, 8).check(specs)


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (None, 0),
        ("sgd", 0),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9), 1),
        ("adagrad", 1),
        ("rmsprop", 1),
        (lambda: keras.optimizers.RMSprop(momentum=0.1, centered=True), 3),
        ("adam", 2),
        (lambda: keras.optimizers.Adam(amsgrad=True), 3),
        ("ftrl", 2),
        ("lion", 1),
    ],
)
def test_slots_are_the_optimizers_own(optimizer, slots):
    specs = describe(lambda: functional(optimizer=optimizer() if callable(optimizer) else optimizer))
    assert {spec.slots for spec in specs if spec.trainable} == {slots}
    assert {spec.slots for spec in specs if not spec.trainable} == {0}


def test_ids_of_a_step_are_counted():
    assert describe(functional, batch_size=64)[0].rows_per_step == 5 * 64
    specs = describe(Subclassed, SUBCLASSED_INPUTS, batch_size=10)
    assert [(spec.shape[0], spec.rows_per_step) for spec in specs if spec.is_table] == [(50_000, 80.0), (300, 10.0)]


def test_tables_of_other_layers_count_once():
    """Keras asks this layer for its output spec, which it finds by calling `call`."""

    class Lookup(keras.layers.Layer):
        def build(self, _):
            self.rows = self.add_weight(shape=(100_000, 4), name="rows")

        def call(self, inputs):
            return keras.ops.take(self.rows, inputs[0], axis=0) * inputs[1]

    def build():
        ids, scale = keras.Input((3,), dtype="int32"), keras.Input((1, 1))
        return keras.Model([ids, scale], Lookup()([ids, scale]))

    (spec,) = describe(build, batch_size=10)
    assert (spec.is_table, spec.rows_per_step) == (True, 30.0)


def test_the_model_that_is_built_later_draws_what_it_would_have_drawn():
    def first_values():
        keras.utils.set_random_seed(3)
        return functional

    drawn = [variable.numpy() for variable in first_values()().trainable_variables]
    build = first_values()
    describe(build)
    for before, after in zip(drawn, build().trainable_variables, strict=True):
        np.testing.assert_array_equal(before, after)


def test_unbuilt_models_are_called_on_the_given_inputs():
    layers = keras.layers

    def build():
        return keras.Sequential([layers.Embedding(100, 4), layers.Flatten(), layers.Dense(1)])

    for inputs in (
        keras.Input((3,), dtype="int32"),
        tf.data.Dataset.from_tensors((np.zeros((2, 3), np.int32), np.zeros(2))),
        lambda: np.zeros((2, 3), np.int32),
    ):
        specs = describe(build, inputs, batch_size=8)
        assert [spec.shape for spec in specs] == [(100, 4), (12, 1), (1,)]
        assert specs[0].rows_per_step == 24
    with pytest.raises(PlanError, match="`inputs` must be given for model 'sequential.*Valid: keras.Input"):
        describe(build)


def test_paths_that_repeat_become_names_that_do_not():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = (keras.layers.Embedding(10, 4, name="e") for _ in range(2))

        def call(self, ids):
            return self.first(ids) + self.second(ids)

    names = [spec.name for spec in describe(Twins, keras.Input((), dtype="int32"))]
    assert len(set(names)) == 2
    assert names[1] == names[0] + ":1"


def test_the_dtype_policy_holds_and_names_are_left_alone():
    keras.utils.clear_session()
    keras.config.set_dtype_policy("float16")
    try:
        assert describe(functional)[0].dtype == "float16"
        assert functional().layers[1].name == "embedding"
    finally:
        keras.config.set_dtype_policy("float32")


def test_what_the_function_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        describe(lambda: 1 // 0)
    with pytest.raises(PlanError, match="must return a keras.Model. Received: 3"):
        describe(lambda: 3)


def test_specs_are_plannable():
    specs = describe(Subclassed, SUBCLASSED_INPUTS)
    assert all(isinstance(spec, VariableSpec) for spec in specs)
    plan(specs, 3).check(specs)
