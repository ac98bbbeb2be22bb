"""Requests that fail are repeated, for a time; what does not pass is not."""

import threading
import time
import types

import aiohttp
import pytest
import requests

from tests.stores import s3
from tests.stores.flaky import Flaky
from tfps.data import retries
from tfps.data.retries import may_pass, with_retries
from tfps.data.stored_files import Access, StoredFile, find_files, read_range
from tfps.errors import ConfigError, SourceError


@pytest.fixture
def quick(monkeypatch):
    """Short pauses."""
    monkeypatch.setattr(retries, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def flaky():
    server = Flaky({"/a.txt": bytes(range(256)) * 40})
    yield server
    server.close()


def caused(error, cause):
    error.__cause__ = cause
    return error


def failing(*errors):
    left = list(errors)

    def call():
        if left:
            raise left.pop(0)
        return "done"

    return call


def test_a_call_is_repeated_and_says_so(quick, caplog):
    assert with_retries("reading x", failing(ConnectionError("gone"), OSError("reset")), 5) == "done"
    first, second = caplog.messages
    assert first.startswith("reading x failed (ConnectionError: gone): again in ") and "OSError: reset" in second


def test_pauses_grow_and_vary(monkeypatch):
    pauses = []
    monkeypatch.setattr(retries, "time", types.SimpleNamespace(sleep=pauses.append, monotonic=lambda: 0.0))
    with_retries("x", failing(*[OSError()] * 12), 1e9)
    for number, pause in enumerate(pauses):
        longest = min(0.2 * 2**number, 15.0)
        assert longest / 2 <= pause <= longest
    assert len({pause / min(0.2 * 2**number, 15.0) for number, pause in enumerate(pauses)}) == 12


def test_the_time_is_limited(quick):
    begin = time.monotonic()
    with pytest.raises(
        SourceError, match=r"reading x failed \d+ times in 0.3 s, the last time with: OSError: away"
    ) as e:
        with_retries("reading x", failing(*[OSError("away")] * 10_000), 0.3)
    assert time.monotonic() - begin < 5 and e.value.may_pass


def test_a_call_that_hangs_is_given_up(quick):
    released = threading.Event()
    with pytest.raises(SourceError, match="TimeoutError: no answer within 0"):
        with_retries("x", lambda: released.wait(60), 0.2)
    released.set()


def of_status(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionError(), True),
        (TimeoutError(), True),
        (OSError("unknown"), True),
        (aiohttp.ClientPayloadError(), True),
        (requests.ConnectionError(), True),
        (of_status(503), True),
        (of_status(500), True),
        (of_status(429), True),
        (of_status(403), False),
        (aiohttp.ClientResponseError(None, (), status=502), True),
        (aiohttp.ClientResponseError(None, (), status=401), False),
        (FileNotFoundError(), False),
        (caused(FileNotFoundError(), aiohttp.ClientResponseError(None, (), status=503)), True),
        (caused(FileNotFoundError(), aiohttp.ClientResponseError(None, (), status=404)), False),
        (PermissionError(), False),
        (ImportError(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_pass(error, passes):
    assert may_pass(error) == passes


@pytest.mark.parametrize("fault", [500, 503, "cut", "drop"])
def test_ranges_come_whole_from_a_server_that_breaks(quick, flaky, fault):
    access = Access({}, 20)
    (file,) = find_files([f"{flaky.url}/a.txt"], access)
    content = flaky.files["/a.txt"]
    flaky.faults["/a.txt"] = [fault] * 3
    assert read_range(file, 100, 5000, access) == content[100:5000]
    assert not flaky.faults["/a.txt"]


def test_a_file_that_is_not_there_is_not_waited_for(flaky):
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"listing 'http://.*/none.txt' failed: FileNotFoundError"):
        find_files([f"{flaky.url}/none.txt"], Access({}, 60))
    assert time.monotonic() - begin < 10


def test_a_file_that_changes_is_an_error_by_name(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    access = Access({}, 5)
    (file,) = find_files([str(tmp_path / "*.txt")], access)
    assert read_range(file, 0, 4, access) == b"one\n"
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(SourceError, match=r"a.txt' was changed while it was read: it had 8 bytes .* now 14 bytes"):
        read_range(file, 4, 8, access)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://bucket/a", "`urls` must be a URL that fsspec can open. Received: 'nosuch://bucket/a'"),
        ("memory://nothing/*.tsv", "`urls` must name files. Received: 'memory://nothing/\\*.tsv', which has no file."),
    ],
)
def test_urls_that_nothing_opens(url, message):
    with pytest.raises(ConfigError, match=message):
        find_files([url], Access({}, 5))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="which is a folder. Valid: a URL with a pattern, such as"):
        find_files([str(tmp_path)], Access({}, 5))


def test_urls_keep_their_host(flaky):
    (file,) = find_files([f"{flaky.url}/a.txt"], Access({}, 5))
    assert file == StoredFile(f"{flaky.url}/a.txt", 10240, file.mark) and file.mark


def test_an_object_that_has_become_shorter_is_an_error_by_name(bucket):
    access = Access(bucket.options, 60)
    (file,) = find_files([bucket.write("a.txt", b"x" * 1000)], access)
    bucket.write("a.txt", b"y")
    with pytest.raises(SourceError, match="a.txt' was changed while it was read: it had 1000 bytes .* now 1 bytes"):
        read_range(file, 500, 1000, access)


def test_a_store_that_refuses_is_not_asked_again(moto, bucket):
    url = bucket.write("a.txt", b"x")
    proxy = Flaky(behind=moto.port)
    proxy.faults["*"] = [403] * 100
    begin = time.monotonic()
    with pytest.raises(SourceError, match="listing 's3://.*/a.txt' failed: PermissionError: Forbidden"):
        find_files([url], Access(s3.options(proxy.url.rpartition(":")[2]), 60))
    proxy.close()
    assert time.monotonic() - begin < 30
    with pytest.raises(SourceError, match="listing 's3://nowhere/a.txt' failed: FileNotFoundError"):
        find_files(["s3://nowhere/a.txt"], Access(moto.options, 60))
