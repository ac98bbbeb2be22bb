"""Stores for the tests of a session. A conftest imports the fixtures that its tests use."""

import dataclasses

import fsspec
import pytest

from tests.stores import hdfs, s3


@dataclasses.dataclass(frozen=True)
class Store:
    """A store of any kind.

    Args:
        url: the URL of a folder of its own for each test.
        options: what fsspec needs.
    """

    url: str
    options: dict

    def write(self, name, data):
        """Writes a file and returns its URL."""
        files, path = fsspec.core.url_to_fs(f"{self.url}/{name}", **self.options)
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        files.pipe_file(path, data)
        return f"{self.url}/{name}"


@pytest.fixture(scope="session")
def moto():
    with s3.running() as store:
        yield store


@pytest.fixture(scope="session")
def namenode(tmp_path_factory):
    if reason := hdfs.missing():
        pytest.skip(reason)
    with hdfs.running(tmp_path_factory.mktemp("hdfs")) as store:
        yield store


KINDS = ("file", "s3", "webhdfs")


@pytest.fixture
def bucket(moto, tmp_path):
    """A folder of its own in S3."""
    return Store(f"{moto.url}/{tmp_path.name}", moto.options)


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    """Each kind of store that workers read, with a folder of its own for the test."""
    name = tmp_path.name
    if request.param == "file":
        return Store(f"file://{tmp_path}", {})
    if request.param == "s3":
        found = request.getfixturevalue("moto")
        return Store(f"{found.url}/{name}", found.options)
    return Store(f"{request.getfixturevalue('namenode').url}/{name}", {})
