"""A manifest is data that anybody may have made: whatever is in it, only a CheckpointError comes out, and soon."""

import copy
import hashlib
import json
import time

import numpy as np
import pytest

from tfps.errors import CheckpointError
from tfps.placement.routing import Routing
from tfps.saving.inspection import table_bytes
from tfps.saving.manifest import Manifest, SavedFile, SavedPart, SavedTable, SavedVariable, files_of, parse

BUNDLES = ("dense-00000", "rows-0-of-2/part-00000", "rows-1-of-2/part-00000")
VALUES = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**62, 2**64, 10**400, 0.5, 1e400, "", "x", "hash", "string", "float32"),
    *("../../x", "/etc/passwd", "\ud800", "\x00", [], {}, [[]], [None], ["x"], {"x": None}, [[1, 2]], "9" * 5000),
)
OUTSIDE = (
    *("../x", "..", ".", "", "/etc/passwd", "a/../../x", "a/..", "a/b/c", "a//b", "/a", "a/", "~/x", "a\\..\\x", "c:x"),
    *("file://x", "a\n", "a\x00", " a", "./a", ".hidden", "a/.hidden", "\ud800"),
)


def fields():
    """The fields of a good manifest, as JSON has them."""
    rows = Routing("hash", 10, 2)
    parts = tuple(SavedPart(bundle, shard, 0, 5, bool(shard)) for shard, bundle in enumerate(BUNDLES[1:]))
    manifest = Manifest(
        step=3,
        created="2026-01-01T00:00:00+00:00",
        writer={"tfps": "1", "mode": "Sync"},
        base=None,
        base_checksum=None,
        progress={"epoch": 1, "place": {"batch": 2, "state": [1, 2]}},
        variables=(
            SavedVariable("model/items/embeddings", (10, 4), "float32", None),
            SavedVariable("optimizer/items_velocity", (10, 4), "float32", None),
            SavedVariable("model/top/bias", (1,), "float32", BUNDLES[0]),
        ),
        tables=(SavedTable(rows, ("model/items/embeddings", "optimizer/items_velocity"), parts),),
        files={name: SavedFile(9, "0" * 16) for bundle in BUNDLES for name in files_of(bundle)},
    )
    return json.loads(manifest.to_json())


def signed(body):
    """The text of a manifest with a checksum that is right: what somebody who edits it can make."""
    body = {name: value for name, value in body.items() if name != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps(body | {"checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


def places(value, path=()):
    """The path of every value in nested JSON."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in children:
        yield (*path, key)
        yield from places(one, (*path, key))


def change(body, path, rng):
    """Replaces, removes, repeats or renames one value."""
    owner = body
    for key in path[:-1]:
        owner = owner[key]
    key, how = path[-1], int(rng.integers(8))
    if how == 0:
        del owner[key]
    elif how == 1 and isinstance(owner, dict):
        owner[str(VALUES[rng.integers(len(VALUES))])] = owner.pop(key)
    elif how == 2 and isinstance(owner, list):
        owner.append(copy.deepcopy(owner[key]))
    else:
        owner[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])


def try_to_parse(text, folder):
    """Parses a text; what it accepts stays in its folder, and can be described."""
    began = time.process_time()
    try:
        manifest = parse(text, str(folder / "manifest.json"))
    except CheckpointError as error:
        assert len(str(error)) < 1000
        return False
    finally:
        # A bound for what is quadratic or endless, which takes minutes; other threads of the process count, too.
        assert time.process_time() - began < 30.0
    bundles = [variable.bundle for variable in manifest.variables if variable.bundle is not None]
    bundles += [part.bundle for table in manifest.tables for part in table.parts]
    names = [*manifest.files, *bundles] + [manifest.base] * (manifest.base is not None)
    assert all((folder / name).resolve().is_relative_to(folder) for name in names)
    assert sum(table_bytes(manifest, table) for table in manifest.tables) >= 0 <= manifest.bytes
    return True


def test_a_good_one_is_read(tmp_path):
    assert try_to_parse(signed(fields()), tmp_path)


def test_changed_values_with_a_right_checksum(tmp_path):
    rng, good = np.random.default_rng(16), fields()
    paths = list(places(good))
    accepted = 0
    for _ in range(3000):
        body = copy.deepcopy(good)
        for index in rng.integers(len(paths), size=rng.integers(1, 3)):
            # The first change may have removed the place of the second.
            try:
                change(body, paths[index], rng)
            except (KeyError, IndexError, TypeError, AttributeError):
                continue
        accepted += try_to_parse(signed(body), tmp_path)
    # Some are as good as before: another step, say.
    assert 0 < accepted < 1000


def test_flipped_bits_and_cut_texts(tmp_path):
    rng, text = np.random.default_rng(16), signed(fields())
    for bit in rng.integers(8 * len(text), size=1500):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << (bit % 8)
        assert not try_to_parse(bytes(flipped), tmp_path)
    for end in rng.integers(len(text), size=200):
        assert not try_to_parse(text[:end], tmp_path)
        assert not try_to_parse(text[:end] + text, tmp_path)


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    for where in ("base", "file", "variable", "part"):
        body = fields()
        if where == "base":
            body["base"] = name
        elif where == "file":
            body["files"][name] = {"bytes": 1, "farmhash64": "0" * 16}
        else:
            body["files"] |= {file: {"bytes": 1, "farmhash64": "0" * 16} for file in files_of(name)}
            owner = body["variables"][2] if where == "variable" else body["tables"][0]["parts"][0]
            owner["bundle"] = name
        assert not try_to_parse(signed(body), tmp_path)


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_deep_nesting(tmp_path, depth):
    for text in (b"[" * depth, b'{"format":' * depth, b"[" * depth + b"]" * depth):
        assert not try_to_parse(text, tmp_path)
    good = signed(fields())
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opening * depth + b"1" + closing * depth
        try_to_parse(good.replace(b'"epoch": 1', b'"epoch": ' + nested), tmp_path)


def test_parts_that_lack_or_repeat_rows_are_named(tmp_path):
    body = fields()
    table = body["tables"][0]
    first, second = table["parts"][0], table["parts"][1] | {"has_ids": False}
    assert try_to_parse(signed(body | {"tables": [table | {"parts": [first, second]}]}), tmp_path)
    for parts in (
        [first],
        [first, first, second],
        [first, second | {"rows": 4}],
        [first | {"first": 1, "rows": 4}, second],
    ):
        assert not try_to_parse(signed(body | {"tables": [table | {"parts": parts}]}), tmp_path)


def test_many_fields_are_checked_soon(tmp_path):
    body = fields()
    assert not try_to_parse(signed(body | {"variables": body["variables"] * 20_000}), tmp_path)
    names = [f"model/{number}" for number in range(10_000)]
    # A part with ids, as of a table that may lack rows.
    parts = body["tables"][0]["parts"][1:]
    tables = [body["tables"][0] | {"columns": [name], "parts": parts} for name in names]
    variables = [body["variables"][0] | {"name": name} for name in names]
    assert try_to_parse(signed(body | {"tables": tables, "variables": variables}), tmp_path)
