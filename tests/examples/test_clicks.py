"""The click model: cells as ids, lines held out exactly, and training embedded, launched and by hand."""

import argparse
import json
import re
import socket

import numpy as np
import pytest

ADULT = "adult_census/adult.data"
CRITEO = "criteo_1tb_day0_10k/day_0_first10000.tsv"
LAUNCH = "import sys; from tfps.cli.launch import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def clicks():
    import clicks

    return clicks


def arguments(clicks, path, form="criteo", batch=7):
    return argparse.Namespace(data=str(path), format=form, batch=batch, rows=1000)


def criteo_line(label="0", numbers=("1",) * 13, words=("68fd1e64",) * 26):
    return "\t".join([label, *numbers, *words])


def test_missing_negative_and_large_numbers(clicks):
    numbers = ["", "-1", "0", "2147483647", *["5"] * 9]
    (ids, scaled), labels = clicks.parse([criteo_line("1", numbers), criteo_line()], clicks.FORMATS["criteo"], 10**6)
    assert ids.shape == (2, 39) and scaled.shape == (2, 13)
    np.testing.assert_allclose(scaled[0, :4], [0, -np.log(2), 0, np.log1p(2147483647.0)], rtol=1e-6)
    np.testing.assert_array_equal(labels, [[1], [0]])
    assert ids[0, 0] != ids[1, 0], "missing and 1 must be two features"


def test_a_missing_number_is_not_zero_and_a_column_is_part_of_its_feature(clicks):
    lines = [criteo_line(numbers=["", *["0"] * 12]), criteo_line(numbers=["0"] * 13)]
    (ids, _), _ = clicks.parse(lines, clicks.FORMATS["criteo"], 2**40)
    assert ids[0, 0] != ids[1, 0]
    assert len(set(ids[1].numpy())) == 39, "the same word in two columns must be two features"


def test_adult_cells_and_labels(clicks):
    line = "39, ?, 77516, Bachelors, 13, a, b, c, d, Male, 2174, 0, 40, ?, "
    (ids, scaled), labels = clicks.parse([line + ">50K", line + "<=50K."], clicks.FORMATS["adult"], 1000)
    np.testing.assert_array_equal(labels, [[1], [0]])
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_allclose(scaled[0, 3], np.log1p(2174), rtol=1e-6)


def test_every_line_is_trained_on_or_held_out_once(clicks, tmp_path):
    path = tmp_path / "rows"
    path.write_text("\n".join(criteo_line(numbers=[str(n)] * 13) for n in range(157)) + "\n\n")
    training, held_out = (
        [n for (_, scaled), _ in part for n in np.rint(np.expm1(scaled[:, 0])).astype(int).tolist()]
        for part in clicks.datasets(arguments(clicks, path))
    )
    assert 4 < len(held_out) < 40
    assert sorted(training + held_out) == list(range(157)) and training != sorted(training)


def test_the_same_lines_are_held_out_in_any_batches(clicks, tmp_path):
    path = tmp_path / "rows"
    path.write_text("\n".join(criteo_line(numbers=[str(n * 7919)] * 13) for n in range(1500)))
    one, other = (
        [scaled[:, 0].numpy() for (_, scaled), _ in clicks.datasets(arguments(clicks, path, batch=batch))[1]]
        for batch in (3, 512)
    )
    np.testing.assert_allclose(np.concatenate(one), np.concatenate(other), rtol=1e-6)


def test_datasets_have_the_ids_and_numbers_of_parse(clicks, data, tmp_path):
    lines = (data / CRITEO).read_text().splitlines()[:500]
    (tmp_path / "rows").write_text("\n".join([*lines, criteo_line("1", ["", "-1", "-3e38", "3e38", *["0"] * 9])]))
    parts = [batch for part in clicks.datasets(arguments(clicks, tmp_path / "rows")) for batch in part]
    found = [np.concatenate([ids, labels, scaled], axis=1) for (ids, scaled), labels in parts]
    lines = (tmp_path / "rows").read_text().splitlines()
    (ids, scaled), labels = clicks.parse(lines, clicks.FORMATS["criteo"], 1000)
    expected = np.concatenate([ids, labels, scaled], axis=1)
    # The last bit of a logarithm depends on the place in the batch.
    np.testing.assert_allclose(in_order(np.concatenate(found)), in_order(expected), rtol=1e-6)


def in_order(rows):
    return rows[np.lexsort(np.round(rows, 3).T)]


def test_no_such_file(clicks):
    with pytest.raises(SystemExit, match="nowhere"):
        clicks.datasets(arguments(clicks, "nowhere*.tsv"))


# The launched example and the one by hand have the same model and data.
@pytest.mark.slow
def test_adult_embedded(run, head):
    small = ("--rows", 50_000, "--rate", 0.2, "--epochs", 3)
    output = run("examples/ctr_dnn.py", "--data", head(ADULT, 12_000), "--format", "adult", *small)
    assert auc(output) > 0.8
    assert re.search(r"features/embeddings +\[50000, 8\] .* 2 by hash +0-1", output), output


@pytest.mark.slow
def test_criteo_embedded(run, head):
    output = run("examples/ctr_dnn.py", "--data", head(CRITEO, 10_000), "--epochs", 2, "--ps", 1)
    assert auc(output) > 0.6  # 28 clicks are held out


def test_adult_launched(run, head):
    small = ("--format", "adult", "--rows", 50_000, "--epochs", 1)
    output = run("-c", LAUNCH, "--ps", 1, "--workers", 2, "examples/ctr_dnn.py", "--data", head(ADULT, 4000), *small)
    assert "[chief 0] on held-out rows: AUC" in output


def test_adult_by_hand(begin, head):
    jobs = ("ps", "worker", "chief")
    cluster = {job: [f"127.0.0.1:{port}"] for job, port in zip(jobs, free_ports(3), strict=True)}
    program = ("examples/ctr_dnn.py", "--data", head(ADULT, 4000), "--format", "adult", "--rows", 50_000, "--epochs", 1)
    roles = [
        begin(*program, TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": job, "index": 0}})) for job in jobs
    ]
    assert [role.wait(300) for role in roles] == [0, 0, 0], [role.output() for role in roles]
    assert "on held-out rows: AUC" in roles[-1].output()


def auc(output):
    return float(re.search(r"AUC ([\d.]+)", output)[1])


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
