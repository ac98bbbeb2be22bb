"""Models made up from a seed, and the one everybody is measured on."""

import random

import pytest

from tfps.placement.spec import VariableSpec

CRITEO_ROWS = (
    [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194]
    + [27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
)  # fmt: skip


@pytest.fixture
def criteo_specs():
    """26 tables with the cardinalities of the Criteo Kaggle data, 16 wide, and an MLP of 400-400-400."""
    tables = [VariableSpec(f"c{i}", (rows, 16), slots=1, is_table=True) for i, rows in enumerate(CRITEO_ROWS)]
    sizes = [26 * 16 + 13, 400, 400, 400, 1]
    for layer, (wide, narrow) in enumerate(zip(sizes, sizes[1:], strict=False)):
        tables.append(VariableSpec(f"dense{layer}/kernel", (wide, narrow), slots=1))
        tables.append(VariableSpec(f"dense{layer}/bias", (narrow,), slots=1))
    return tables


@pytest.fixture
def random_specs():
    """A function: seed -> the variables of a model that nobody would write."""
    return _random_specs


def _random_specs(seed):
    rng = random.Random(seed)
    return [_random_spec(rng, f"v{index}") for index in range(rng.randint(0, 40))]


def _random_spec(rng, name):
    slots, dtype = rng.randint(0, 3), rng.choice(["float32", "float16", "bfloat16", "int64"])
    if rng.random() < 0.5:
        shape = (int(10 ** rng.uniform(0, 8)), rng.choice([1, 8, 10, 64]))
        asked = rng.choice([None, 0.0, 512.0, 1e5])
        return VariableSpec(name, shape, dtype, slots, asked, rng.random() < 0.9, is_table=True)
    shape = tuple(rng.randint(0, 500) for _ in range(rng.randint(0, 3)))
    return VariableSpec(name, shape, dtype, slots)
