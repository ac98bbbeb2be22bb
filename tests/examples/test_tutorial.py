"""TensorFlow's own servers and resolver, `Model.fit` and a hand-written loop: only the strategy's name is ours."""

import re

from tfps.cluster.ports import reserve_address


def test_both_loops_on_servers_of_tensorflow(run, tmp_path):
    output = run("tests/examples/tutorial.py", tmp_path, *(reserve_address().split(":")[1] for _ in range(3)))
    difference, accuracy = map(float, re.search(r"difference (\S+) accuracy (\S+)", output).groups())
    assert difference < 1e-4 and accuracy > 0.9, output
