"""The library is found, checked against its TensorFlow, and can be done without."""

import pytest
import tensorflow as tf

from tfps.errors import ConfigError, LibraryError
from tfps.ops import library


def test_it_was_built_for_this_tensorflow():
    assert ".".join(tf.__version__.split(".")[:2]) in library.libraries(library.FOLDER)
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


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty folder in which the library is looked for."""
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library._load_once.cache_clear()
    yield tmp_path
    library._load_once.cache_clear()


def test_never_built(folder):
    assert library.load() is None


def test_each_tensorflow_gets_the_library_that_was_built_for_it(folder):
    for name in ("_tfps_ops_2_9.so", "_tfps_ops_2_20.so", "_tfps_ops_2_21.so", "library.py"):
        (folder / name).touch()
    built = library.libraries(folder)
    assert set(built) == {"2.9", "2.20", "2.21"}
    assert library.choose(built, "2.20.0").name == "_tfps_ops_2_20.so"
    assert library.choose(built, "2.21.3").name == "_tfps_ops_2_21.so"
    assert library.choose(built, "2.9.0-rc1").name == "_tfps_ops_2_9.so"


def test_built_for_other_versions_of_tensorflow(folder, monkeypatch):
    for name in ("_tfps_ops_2_17.so", "_tfps_ops_2_18.so"):
        (folder / name).touch()
    monkeypatch.setattr(library.tf, "__version__", "2.1.0")
    with pytest.raises(LibraryError, match=r"built for TensorFlow 2\.17, 2\.18, but this is TensorFlow 2\.1\.0: rein"):
        library.load()


def test_a_file_that_is_no_library(folder):
    minor = "_".join(tf.__version__.split(".")[:2])
    (folder / f"_tfps_ops_{minor}.so").write_text("not a library")
    with pytest.raises(LibraryError, match=f"_tfps_ops_{minor}.so cannot be loaded"):
        library.load()
