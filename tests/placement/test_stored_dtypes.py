"""Plans of tables that servers keep in bfloat16: half the bytes of rows, and of slots that are as wide."""

import keras
import pytest

import tfps
from tfps.errors import PlanError
from tfps.placement.advice import advise
from tfps.placement.model import Plan
from tfps.placement.planner import IncrementalPlacer, plan
from tfps.placement.spec import TableDtypes, VariableSpec

SPEC = VariableSpec("items", (1000, 16), slots=2, row_slots=1, is_table=True)


@pytest.mark.parametrize(
    ("rows", "slots", "row_bytes", "all_bytes"),
    [
        ("float32", "float32", 64, 64 + 128 + 4),
        ("bfloat16", "float32", 32, 32 + 128 + 4),
        ("float32", "bfloat16", 64, 64 + 64 + 4),
        ("bfloat16", "bfloat16", 32, 32 + 64 + 4),
    ],
)
def test_bytes_are_those_of_the_types(rows, slots, row_bytes, all_bytes):
    spec = TableDtypes(rows, slots).of_table(SPEC)
    assert (spec.row_bytes, spec.bytes_of_rows(10), spec.nbytes) == (row_bytes, 10 * all_bytes, 1000 * row_bytes)
    made = plan([spec], 2)
    assert sum(load.bytes_with_slots for load in made.loads()) == 1000 * all_bytes
    assert Plan.from_json(made.to_json()) == made


def test_a_plan_of_float32_has_no_word_of_types():
    assert TableDtypes().of_table(SPEC) == SPEC
    assert "stored" not in plan([SPEC], 2).to_json() and "slots_dtype" not in plan([SPEC], 2).to_json()


def test_what_a_table_says_of_itself_stays():
    own = VariableSpec("items", (1000, 16), is_table=True, stored_dtype="float32")
    assert TableDtypes("bfloat16", "bfloat16").of_table(own).row_bytes == 64


@pytest.mark.parametrize(("dtype", "size"), [("float64", 8), ("float16", 2), ("int8", 1)])
def test_a_table_of_another_type_is_planned_with_its_own_bytes(dtype, size):
    other = VariableSpec("others", (100, 4), dtype, slots=1, is_table=True)
    for types in ({}, {"embeddings_dtype": "bfloat16", "slots_dtype": "bfloat16"}):
        made = tfps.plan([other], 1, **types)
        assert made.loads()[0].bytes_with_slots == 2 * 100 * 4 * size and made.find("others").spec == other


def test_a_wrong_type_is_refused():
    with pytest.raises(PlanError, match="`stored_dtype` of variable 'items' must be .*'float16'"):
        VariableSpec("items", (10, 4), is_table=True, stored_dtype="float16")
    with pytest.raises(PlanError, match="`slots_dtype` must be .*'int8'"):
        tfps.plan([SPEC], 2, slots_dtype="int8")


def build():
    model = keras.Sequential([keras.Input((3,), dtype="int64"), keras.layers.Embedding(1_000_000, 16)])
    model.compile("adagrad", "mse")
    return model


def test_a_model_is_planned_with_half_the_bytes():
    wide, narrow = tfps.plan(build, 2), tfps.plan(build, 2, embeddings_dtype="bfloat16", slots_dtype="bfloat16")
    for one, other in zip(wide.loads(), narrow.loads(), strict=True):
        assert other.bytes_with_slots * 2 == one.bytes_with_slots
        assert other.row_bytes_per_step * 2 == pytest.approx(one.row_bytes_per_step)


def test_a_layer_that_grows_is_planned_with_its_own_type():
    def grow():
        layer = tfps.layers.DynamicEmbedding(16, expected_rows=1000, embeddings_dtype="bfloat16")
        model = keras.Sequential([keras.Input((3,), dtype="int64"), layer])
        model.compile("adagrad", "mse")
        return model

    made = tfps.plan(grow, 2)
    assert sum(load.bytes_with_slots for load in made.loads()) == 1000 * (32 + 64 + 16)
    assert any("112.0 kB" in one for one in advise(made))


def test_a_plan_of_bfloat16_is_not_followed_with_float32():
    narrow = TableDtypes("bfloat16", "bfloat16").of_table(SPEC)
    placer = IncrementalPlacer(2, None, plan=plan([narrow], 2))
    with pytest.raises(PlanError, match="`embeddings_dtype` must be 'bfloat16' for table 'items'.*Received: 'float32'"):
        placer.place(SPEC)
    with pytest.raises(PlanError, match="`slots_dtype` must be 'bfloat16'"):
        placer.place(TableDtypes("bfloat16", "float32").of_table(SPEC))
    assert placer.place(narrow).spec == narrow
