"""The library is found, checked against its TensorFlow, and can be done without."""

import json

import pytest
import tensorflow as tf

from tfps.errors import ConfigError, LibraryError
from tfps.ops import library


def test_it_was_built_for_this_tensorflow():
    assert json.loads(library.BUILD_INFO.read_text()) == {"tensorflow": tf.__version__}
    assert library.available()
    assert library.load() is library.load()


def test_disabled_by_the_environment(monkeypatch):
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    assert library.load() is None
    assert not library.available()


def test_a_wrong_value_in_the_environment(monkeypatch):
    monkeypatch.setenv("TFPS_DISABLE_OPS", "perhaps")
    with pytest.raises(ConfigError, match="TFPS_DISABLE_OPS must be 0 or 1. Received: 'perhaps'"):
        library.load()


def test_never_built(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    library._load_once.cache_clear()
    try:
        assert library.load() is None
    finally:
        library._load_once.cache_clear()


def test_built_for_another_tensorflow(tmp_path):
    info = tmp_path / "info.json"
    info.write_text('{"tensorflow": "2.18.1"}')
    with pytest.raises(LibraryError, match="built for TensorFlow 2.18.1, but this is TensorFlow 2.21.0: reinstall"):
        library.check_build(info, "2.21.0")


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "not json"])
def test_an_unreadable_build_info(tmp_path, text):
    info = tmp_path / "info.json"
    if text is not None:
        info.write_text(text)
    with pytest.raises(LibraryError, match="must tell which TensorFlow"):
        library.check_build(info, "2.21.0")


def test_a_file_that_is_no_library(monkeypatch, tmp_path):
    wrong = tmp_path / "wrong.so"
    wrong.write_text("not a library")
    monkeypatch.setattr(library, "LIBRARY", wrong)
    library._load_once.cache_clear()
    try:
        with pytest.raises(LibraryError, match="wrong.so cannot be loaded"):
            library.load()
    finally:
        library._load_once.cache_clear()
