"""`tfps-dump diff` finds the planted step and layer in which two runs part; `ls` and `show` show what is there."""

import json

import keras
import numpy as np
import pytest

import tfps
from tests.debug.models import BATCH, LATE_ID, LATE_STEP, build, inputs, trained
from tfps.callbacks import Dump
from tfps.cli.dump import main
from tfps.debug.diff import compare, find_parting
from tfps.debug.reading import DumpReader
from tfps.debug.step_file import ACTIVATION, GRADIENT, PARAMETER, ROWS, Entry, Value
from tfps.debug.worker import DumpSettings, StepWriter
from tfps.errors import DumpError


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The path of the dump of one process."""
    path = tmp_path_factory.mktemp("dumps") / "alone"
    trained(None, [Dump(path)])
    return str(path)


def change_number(step):
    x, y = inputs()
    x["numbers"][step * BATCH + 3, 2] += 0.5
    return x, y


def change_row(model):
    weights = model.get_weights()
    weights[0][LATE_ID] += 0.01
    model.set_weights(weights)


def change_kernel(model):
    layer = model.get_layer("deep").get_layer("second")
    layer.kernel.assign(layer.kernel * 1.001)


PLANTED = {
    "input": (dict(data=change_number(5)), 5, "deep/first", "activation output"),
    "row": (dict(change=change_row), LATE_STEP, "items", "rows embeddings"),
    "weight": (dict(change=change_kernel), 0, "deep/second", "parameter kernel"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_one_process_and_a_cluster_part_where_it_was_planted(one_worker, alone, tmp_path, capsys, name):
    options, step, layer, what = PLANTED[name]
    trained(one_worker, [Dump(tmp_path / "ours")], **options)
    assert main(["diff", alone, str(tmp_path / "ours")]) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"The runs part at step {step} of worker 0, in layer {layer!r}: {what}, relative error ")
    error = float(first.split("relative error ")[1].split()[0])
    assert 1e-4 < error < 1
    if name == "row":
        assert others[0].startswith(f"  row {LATE_ID}: relative error") and not others[1].startswith("  row")
    if name == "weight":
        assert error == pytest.approx(0.001, rel=0.01)
        # Within this tolerance the runs are equal.
        assert main(["diff", alone, str(tmp_path / "ours"), "--rtol", "0.2"]) == 0


def test_two_clusters_part_at_the_step_and_worker(strategy, tmp_path):
    dumps = []
    for number, data in enumerate([inputs(), inputs(), change_number(5)]):
        trained(strategy, [Dump(tmp_path / str(number))], tfps.optimizers.Sync(keras.optimizers.SGD(0.1)), data)
        dumps.append(DumpReader(tmp_path / str(number)))
    assert dumps[0].steps == [(step, worker) for step in range(4) for worker in (0, 1)]
    equal = find_parting(dumps[0], dumps[1])
    assert not equal.differences and equal.steps == 8
    found = find_parting(dumps[0], dumps[2])
    # Global step 2 has the batches 4 and 5, of worker 0 and worker 1.
    assert found.last == ((2, 1), (2, 1)) and found.differences[0].layer == "deep/first"
    assert {one.kind for one in found.differences} >= {"activation", "gradient", "row_gradient"}
    # One process that trains the two batches of a step together has the same parameters, and other outputs.
    x, y = inputs()
    keras.utils.set_random_seed(1)
    model = build(keras.optimizers.SGD(0.1))
    model.fit(x, y, batch_size=2 * BATCH, shuffle=False, verbose=0, callbacks=[Dump(tmp_path / "alone")])
    found = find_parting(dumps[0], DumpReader(tmp_path / "alone"))
    assert not found.differences and found.only_parameters and found.steps == 4 and found.values == 4 * 6


def test_equal_runs_and_both_formats(alone, tmp_path, capsys):
    trained(None, [Dump(tmp_path / "ours", format="parquet")])
    assert main(["diff", alone, str(tmp_path / "ours")]) == 0
    assert capsys.readouterr().out.startswith("The runs are equal: 8 steps and 176 values compared.")
    assert main(["diff", "--json", alone, str(tmp_path / "ours")]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []


def values(numbers, ids=None, kind=ACTIVATION):
    return Value(
        Entry("x", kind, "output", ids is not None), np.asarray(numbers), None if ids is None else np.array(ids)
    )


def test_single_values():
    assert compare(values([1.0, np.nan, np.inf]), values([1.0, np.nan, np.inf]), 0, 0) is None
    found = compare(values([1.0, 4.0]), values([1.0, np.nan]), 1e-3, 0)
    assert found.relative == found.absolute == np.inf
    found = compare(values([2.0, -4.0]), values([2.0, -5.0]), 0.1, 0)
    assert (found.relative, found.absolute) == (0.2, 1.0)
    assert compare(values([2.0, -4.0]), values([2.0, -5.0]), 0.21, 0) is None
    assert compare(values([1e-9]), values([2e-9]), 0, 1e-7) is None
    assert compare(values(np.zeros((2, 3))), values(np.zeros((3, 2))), 1, 1).note == "shapes [2, 3] and [3, 2]"
    ours, theirs = values([[1.0], [2.0], [4.0]], [3, 5, 9], ROWS), values([[1.0], [4.0], [8.0]], [3, 9, 11], ROWS)
    found = compare(ours, theirs, 1e-3, 0)
    assert found.note == "row ids differ, 1 only in the first: 5; 1 only in the second: 11" and not found.rows
    assert compare(ours, values([[1.0], [2.5], [4.0]], [3, 5, 9], ROWS), 1e-3, 0).rows == [(5, 0.125)]


def test_ls_and_show(alone, capsys):
    assert main(["ls", alone]) == 0
    printed = capsys.readouterr().out
    assert "model ctr, one process, 1 workers" in printed and "worker 0: 8 steps, 0 to 7, 0." in printed
    assert main(["ls", alone, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["written"]) == 8
    assert main(["show", alone, "--step", "3", "--layer", "deep"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("step 3 of worker 0: worker-00000/step-000000003.npz\n")
    assert "  deep/first  gradient kernel  float32[4, 6]  norm " in printed and "items" not in printed
    assert main(["show", alone, "--step", "99"]) == 1
    assert (
        "must be of a step that is there. Received: --step 99. Valid: steps 0 to 7 of worker 0."
        in capsys.readouterr().err
    )
    assert main(["show", alone, "--layer", "nosuch"]) == 1
    assert "`--layer` must be a layer of the dump. Received: 'nosuch'. Valid: ['items'" in capsys.readouterr().err


def test_bad_folders_are_named(alone, tmp_path, capsys):
    assert main(["ls", str(tmp_path)]) == 1
    assert "must be the folder of a dump. Received: a folder without dump.json" in capsys.readouterr().err
    trained(None, [Dump(tmp_path / "late", steps=[7]), Dump(tmp_path / "early", steps=[0])])
    with pytest.raises(DumpError, match="must have steps in common. Received: steps 7 to 7 of worker 0 in"):
        find_parting(DumpReader(tmp_path / "late"), DumpReader(tmp_path / "early"))
    trained(None, [Dump(tmp_path / "top", layers="top", steps=[0], what="gradients")])
    trained(None, [Dump(tmp_path / "deep", layers="deep", steps=[0], what="gradients")])
    with pytest.raises(DumpError, match="must have values in common"):
        find_parting(DumpReader(tmp_path / "top"), DumpReader(tmp_path / "deep"))
    file = tmp_path / "late" / "worker-00000" / "step-000000007.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DumpError, match="step-000000007.npz is broken"):
        DumpReader(tmp_path / "late").values(7, 0)
    for arguments, message in {
        (): "a command must be given: ls, show, diff, replay",
        ("diff", alone): "diff needs DUMP DUMP",
        ("ls", alone, "--rtol", "1"): "`--rtol` is no flag of ls",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code == 2 and message in capsys.readouterr().err


def written(path, layers, all_layers=True, what=("values", "gradients", "rows"), steps=range(3)):
    """Writes a dump with a parameter and a gradient of each layer; returns its path."""
    header = {"format": "tfps-dump", "version": 1, "layers": layers, "all_layers": all_layers, "what": what}
    header |= {"model": "model", "mode": "SGD", "num_workers": 1}
    writer = StepWriter(DumpSettings(str(path), str(path), "npz", 10**9, json.dumps(header)))
    kinds = [PARAMETER] * ("values" in what) + [GRADIENT] * ("gradients" in what)
    entries = [Entry(layer, kind, "kernel") for kind in kinds for layer in layers]
    for step in steps:
        writer.put(0, step, entries, [np.full(2, float(step))] * len(entries))
    assert writer.drain(30).steps == len(steps)
    return str(path)


ALONE = {
    "layers": (dict(layers=["b"], all_layers=False), 0, ["first", "left out", "12 values, of the layers a, c."]),
    "what": (
        dict(layers=["a", "b", "c"], what=["values"]),
        0,
        ["first", "left out", "9 values, of the layers a, b, c."],
    ),
    "renamed": (dict(layers=["a", "other", "c"]), 1, ["first", "no setting", "6 values, of the layers b."]),
    "both": (dict(layers=["b", "d"], all_layers=False), 1, ["second", "no setting", "6 values, of the layers d."]),
}


@pytest.mark.parametrize("name", ALONE)
def test_values_of_one_dump_alone_are_told(tmp_path, capsys, name):
    options, status, parts = ALONE[name]
    dumps = [written(tmp_path / "ours", ["a", "b", "c"]), written(tmp_path / "theirs", **options)]
    assert main(["diff", *dumps]) == status
    first, told, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("The runs are equal in what both dumps have: 3 steps and ")
    assert all(part in told for part in parts)
    assert main(["diff", *reversed(dumps)]) == status
    assert parts[2] in capsys.readouterr().out
    assert main(["diff", "--json", *dumps]) == status
    alone = json.loads(capsys.readouterr().out)["alone"][0]
    assert (alone["dump"], alone["is_explained"]) == (parts[0], not status)


def test_a_step_that_is_not_there_and_those_that_are(tmp_path, capsys):
    path = written(tmp_path / "ours", ["a"], steps=[0, 1, 2, 5, 8, 9])
    assert main(["show", path, "--step", "3"]) == 1
    printed = capsys.readouterr().err
    assert "Received: --step 3. Valid: steps 0 to 2, 5, 8 to 9 of worker 0." in printed
