"""Streams of files in a store whose URLs name a host."""

import fsspec

from tests.stores.fixtures import namenode  # noqa: F401  # a fixture
from tfps.streaming.listing import StoreListing, open_store
from tfps.streaming.path_patterns import PathPattern


def test_files_of_webhdfs_are_found_and_opened_again(namenode, tmp_path):  # noqa: F811  # the fixture
    url = f"{namenode.url}/{tmp_path.name}"
    files, path = fsspec.core.url_to_fs(url)
    files.makedirs(f"{path}/20260101", exist_ok=True)
    files.pipe_file(f"{path}/20260101/a.csv", b"1\n")
    listing = StoreListing(PathPattern(f"{url}/%Y%m%d/*.csv"), {})
    (found,) = listing.files()
    assert found.path == f"{url}/20260101/a.csv" and found.time_s == 1767225600
    store, inner = open_store(found.path, {})
    assert store.cat_file(inner) == b"1\n"
