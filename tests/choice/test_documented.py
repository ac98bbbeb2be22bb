"""docs/choosing.md says what the code does: its example and its numbers."""

import pathlib
import re

import pytest

pytest.importorskip("keras")
import tfps  # noqa: E402
from tfps.choice import constants  # noqa: E402

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "choosing.md").read_text()


NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def values(text):
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[1]


def test_the_example_is_what_is_printed():
    names = {}
    exec(block("python").partition("strategy =")[0], names)
    hardware = tfps.Hardware(hosts=8, cards=0, host_bytes=64e9, cores=16, bandwidth=1.25e9)
    printed = str(tfps.explain_strategy(names["build_model"], batch_size=512, hardware=hardware)) + "\n"
    documented = block("text")
    assert NUMBER.sub("", documented) == NUMBER.sub("", printed)
    # Versions of TensorFlow and Keras trace a step with a few more or fewer operations.
    assert values(documented) == pytest.approx(values(printed), rel=0.05)


def test_the_numbers_are_those_of_the_code():
    assert f"predicted to be {constants.BORDER} times as fast" in TEXT
    assert f"predicted to be {constants.TIE} times as fast" in TEXT.replace("\n   ", " ")
    assert f"{constants.FIT_BORDER} of its device" in TEXT
    assert f"a host {constants.HOST_PART} of its memory less {constants.PROCESS_BYTES / 1e9:.2f} GB" in TEXT
    assert constants.UNSURE == 2
