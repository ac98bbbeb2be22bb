"""tfps-checkpoint, as typed: what is there, whether it is whole, and what other programs read of it."""

import json
import os
import re
import shutil
import sys

import keras
import numpy as np
import pytest

import tfps
from tests.saving.models import ROWS, X, Y, build
from tfps.cli.checkpoint import main
from tfps.saving import rows

TABLES = {"model/wide/embeddings": 8, "model/narrow/embeddings": 1}


@pytest.fixture(scope="module")
def trained(strategy):
    with strategy.scope():
        model = build()
    model.fit(X[:200], Y[:200], batch_size=40, verbose=0)
    return model


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """The folder of a run with a complete checkpoint in several parts, and one whose writer died."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "PART_BYTES", 20_000)
        tfps.checkpoint.save(trained, path / "ckpt-5")
    (path / "latest").write_text("ckpt-5\n")
    (path / "ckpt-9.partial").mkdir()
    return path


def test_ls_shows_what_is_there(run, capsys):
    assert main(["ls", str(run)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ckpt-5  complete, latest  step 5  20\d\d-\S+  [\d.]+ kB$", printed, re.MULTILINE)
    assert "  model/wide/embeddings: 3,000 rows of 8, slots: momentum 8, velocity 8, 288.0 kB\n" in printed
    assert f"tfps {tfps.__version__}, " in printed and "mode Asynchronous" in printed
    assert "ckpt-9.partial  incomplete: its writer has not finished, or died\n" in printed
    assert main(["ls", "--json", str(run / "ckpt-5")]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["step"], one["state"], one["base"]) == (5, "complete", None)
    assert {table["name"]: table["width"] for table in one["tables"]} == TABLES
    files = [file for file in (run / "ckpt-5").rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert one["bytes"] == sum(file.stat().st_size for file in files)


def test_verify_names_the_broken_file(run, tmp_path, capsys):
    assert main(["verify", str(run)]) == 0
    assert re.search(r"ckpt-5 is whole: \d+ files\n.*ckpt-9.partial is incomplete", capsys.readouterr().out)
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    data = broken / "ckpt-5" / "rows-1-of-2" / "part-00002.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[1000] ^= 4
    data.write_bytes(content)
    assert main(["ls", str(broken)]) == 0
    assert main(["verify", str(broken)]) == 1
    assert f"{data} is broken" in capsys.readouterr().err
    assert main(["export", str(broken), "--to", str(tmp_path / "out"), "--format", "safetensors"]) == 1
    assert f"{data} is broken" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())
    data.write_bytes(content[:-1])
    assert main(["ls", str(broken)]) == 0
    assert f"ckpt-5  broken, latest: {data} is truncated" in capsys.readouterr().out
    # A manifest may say anything to a terminal.
    (broken / "ckpt-5" / "manifest.json").write_text('{"format": "tfps-checkpoint", "version": "\x1b[2J"}')
    assert main(["verify", str(broken)]) == 1
    assert "manifest.json is broken" in capsys.readouterr().err


def weights(trained, name):
    """The rows of a table of the model, and its two slots of Adam."""
    layer, variables = name.split("/")[1], trained.optimizer.variables
    of_layer = [one.numpy() for one in variables if f"{layer}_embeddings" in one.path]
    return [trained.get_layer(layer).get_weights()[0], *of_layer]


def test_safetensors_by_its_own_library(run, trained, tmp_path, capsys):
    numpy_file = pytest.importorskip("safetensors.numpy")
    assert main(["export", str(run), "--to", str(tmp_path), "--format", "safetensors", "--slots"]) == 0
    path = tmp_path / "model.safetensors"
    assert capsys.readouterr().out == f"wrote {path}\n"
    read = numpy_file.load_file(path)
    for name in TABLES:
        table, first, second = weights(trained, name)
        np.testing.assert_array_equal(read[name], table)
        slots = [read[column] for column in read if column.startswith("optimizer/") and name.split("/")[1] in column]
        for slot, wanted in zip(slots, (first, second), strict=True):
            np.testing.assert_array_equal(slot, wanted)
    np.testing.assert_array_equal(read["model/top/kernel"], trained.get_layer("top").get_weights()[0])
    assert not [one for one in tmp_path.iterdir() if one != path]
    assert main(["export", str(run), "--to", str(path), "--format", "safetensors"]) == 1
    assert "`--to` must be new, because nothing is overwritten" in capsys.readouterr().err


def test_parquet_by_pyarrow(run, trained, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main(["export", str(run), "--to", str(tmp_path), "--format", "parquet", "--slots"]) == 0
    for name, width in TABLES.items():
        file = parquet.ParquetFile(tmp_path / f"{name.replace('/', '.')}.parquet")
        assert file.schema_arrow.names == ["id", "embedding", "momentum", "velocity"]
        assert file.num_row_groups >= 4 or width == 1
        read = file.read().to_pydict()
        order = np.argsort(read["id"])
        np.testing.assert_array_equal(np.array(read["id"])[order], np.arange(ROWS))
        for column, wanted in zip(("embedding", "momentum", "velocity"), weights(trained, name), strict=True):
            np.testing.assert_array_equal(np.array(read[column], "float32")[order], wanted)
    one = tmp_path / "one.parquet"
    assert main(["export", str(run / "ckpt-5"), "--to", str(one), "--format", "parquet", "--tables", "wide"]) == 0
    assert parquet.ParquetFile(one).schema_arrow.names == ["id", "embedding"]


def test_parquet_without_pyarrow_says_what_to_install(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main(["export", str(run), "--to", str(tmp_path), "--format", "parquet"]) == 1
    assert "needs pyarrow. Valid: pip install tfps[parquet]" in capsys.readouterr().err


def test_plain_keras_has_no_tables_but_variables(tmp_path, capsys):
    numpy_file = pytest.importorskip("safetensors.numpy")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="top")])
    tfps.checkpoint.save(model, tmp_path / "plain")
    path = tmp_path / "plain.safetensors"
    assert main(["export", str(tmp_path / "plain"), "--to", str(path), "--format", "safetensors"]) == 0
    (kernel,) = (value for name, value in numpy_file.load_file(path).items() if name.endswith("top/kernel"))
    np.testing.assert_array_equal(kernel, model.get_weights()[0])
    assert main(["export", str(tmp_path / "plain"), "--to", str(tmp_path / "p"), "--format", "parquet"]) == 1
    assert "has no tables" in capsys.readouterr().err


def test_an_object_store(trained, capsys):
    pytest.importorskip("fsspec")
    tfps.checkpoint.save(trained, "memory://listed/ckpt-5")
    assert main(["ls", "memory://listed"]) == 0
    assert main(["verify", "memory://listed/ckpt-5"]) == 0
    assert "memory://listed/ckpt-5 is whole" in capsys.readouterr().out


def test_a_full_disk_is_named(run, tmp_path, capsys):
    """Also where the file is mapped: a write to a map that finds no room kills the process."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=64k tmpfs {mount} 2>/dev/null"):
        pytest.skip("this user may not mount a small file system")
    try:
        for kind in ("safetensors", "parquet"):
            assert main(["export", str(run), "--to", str(mount), "--format", kind, "--tables", "wide"]) == 1
            assert "No space left on device" in capsys.readouterr().err
            assert not list(mount.iterdir())
    finally:
        os.system(f"umount {mount}")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["ls", "{}/none"], "none is no checkpoint, and no folder of checkpoints"),
        (["verify", "{}/ckpt-9.partial"], "has no complete checkpoint"),
        (["export", "{}", "--format", "parquet", "--to", "s3://b/x"], "`--to` must be a path. Received: 's3://b/x'"),
        (["export", "{}", "--format", "parquet", "--to", "/proc/no/x"], "cannot write /proc/no/x/model.wide"),
        (["export", "{}", "--format", "parquet", "--to", "x.parquet"], "`--to` must be a folder for 2 tables"),
        (["export", "{}", "--format", "parquet", "--to", "x", "--tables", "no"], "Received: 'no'. Valid: model/wide/"),
    ],
)
def test_what_cannot_be_done_is_named(run, arguments, words, capsys):
    assert main([one.format(run) for one in arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["ls"], "a command and a checkpoint must be given. Received: ['ls']"),
        (["remove", "x"], "Received: ['remove', 'x']"),
        (["ls", "x", "--slots"], "`--slots` is no flag of ls"),
        (["export", "x", "--to", "y"], "export needs `--to` and `--format`"),
        (["export", "x", "--to", "y", "--format", "csv"], "<safetensors|parquet>"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and words in capsys.readouterr().err
