"""The workflows and the documents of a release name the versions that the Makefile tests."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def versions():
    """The minor versions of TensorFlow that tfps supports: ["2.18", ...]."""
    pairs = re.search(r"^VERSIONS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    return [pair.partition("+")[0] for pair in pairs]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/workflows/release.yml"])
def test_a_release_has_operations_for_every_version(name):
    text = (ROOT / name).read_text()
    assert re.findall(r'make wheel .*TENSORFLOWS="(.*?)"', text) == [" ".join(versions())]


def test_the_wheel_is_tested_with_every_version():
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert re.findall(r'tensorflow: "(.*?)"', text) == versions()


def test_make_wheel_alone_is_for_the_newest():
    assert re.search(r"^TENSORFLOWS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1] == versions()[-1]


def test_continuous_integration_runs_what_one_runs_by_hand():
    steps = re.findall(r"^ +- run: (.*)$", (ROOT / ".github/workflows/ci.yml").read_text(), re.MULTILINE)
    assert steps == [".ci/run"] and (ROOT / steps[0]).stat().st_mode & 0o100
