"""Requests that fail are repeated, for a time; what does not pass is not."""

import threading
import time
import types

import aiohttp
import pytest
import requests
from botocore.exceptions import ClientError

from tests.stores import s3
from tests.stores.flaky import Flaky
from tfps.data import retries
from tfps.data.retries import describe, may_pass, with_retries
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


def of_code(status):
    return ClientError({"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}, "HeadObject")


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
    with pytest.raises(SourceError, match="NoAnswerError: no answer within 0.2 s"):
        with_retries("x", lambda: released.wait(60), 0.2)
    released.set()


def test_what_the_store_told_is_not_hidden_by_a_last_attempt_without_time(quick):
    told = [OSError("busy.")]

    def call():
        if told:
            raise told.pop()
        threading.Event().wait(5)

    with pytest.raises(SourceError, match=r"x failed 2 times in 0.3 s, the last time with: OSError: busy\. Valid"):
        with_retries("x", call, 0.3)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError("http://a/b"), "FileNotFoundError: http://a/b"),
        (caused(FileNotFoundError("a"), ConnectionRefusedError("port 1")), "ConnectionRefusedError: port 1"),
        (caused(PermissionError("Forbidden"), of_code(403)), "PermissionError: Forbidden (HTTP 403)"),
    ],
)
def test_what_a_file_system_hides_is_told(error, text):
    assert describe(error) == text


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
    flaky.faults["/a.txt"] = [403] * 9
    with pytest.raises(SourceError, match=r"listing 'http://.*/a.txt' failed: ClientResponseError: 403, .*Forbidden"):
        find_files([f"{flaky.url}/a.txt"], Access({}, 60))
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("status", "text"), [(503, "ClientResponseError: 503, message='Service Unavailable'"), (None, "Cannot connect")]
)
def test_what_went_wrong_with_a_file_of_the_web_is_told(quick, flaky, status, text, caplog):
    if status is None:
        flaky.close()
    else:
        flaky.faults["/a.txt"] = [status] * 100_000
    with pytest.raises(SourceError, match=rf"failed \d+ times in 0.5 s, the last time with: .*{text}"):
        find_files([f"{flaky.url}/a.txt"], Access({}, 0.5))
    assert len(caplog.messages) > 1 and not any("FileNotFoundError" in one for one in caplog.messages)


@pytest.mark.parametrize("name", ["a.txt", "*.txt"])
def test_a_bucket_that_is_busy_says_so(bucket, moto, name, caplog):
    proxy = Flaky(behind=moto.port)
    proxy.faults["*"] = [503] * 100_000
    with pytest.raises(SourceError, match=r"failed \d+ times in 3 s, the last time with: .*503"):
        find_files([f"s3://bucket/{name}"], Access(s3.options(proxy.url.rpartition(":")[2]), 3))
    proxy.close()
    assert len(caplog.messages) > 1 and "503" in caplog.messages[0]


def test_names_may_have_brackets(tmp_path):
    (tmp_path / "we[i]rd#%41").mkdir()
    for name in ("a[1].csv", "b1.csv", "b[1].csv"):
        (tmp_path / "we[i]rd#%41" / name).write_text(name)

    def find(pattern):
        files = find_files([f"{tmp_path}/{pattern}"], Access({}, 5))
        return [read_range(file, 0, file.size, Access({}, 5)).decode() for file in files]

    assert find("we[i]rd#%41/a[1].csv") == ["a[1].csv"]
    assert find("we*/b[1].csv") == ["b1.csv"] and find("we*/b[[]1].csv") == ["b[1].csv"]
    with pytest.raises(ConfigError, match=r"nix\*.csv', which has no file. Valid: a pattern that files match"):
        find("nix*.csv")


def test_hdfs_without_java_says_what_to_install(monkeypatch):
    def fail(*_, **__):
        raise OSError("Unable to load libjvm: no such file")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(
        ConfigError, match=r"`urls` must .* 'hdfs://a/b' \(Unable to load libjvm.* Valid: Java and Hado"
    ):
        find_files(["hdfs://a/b"], Access({}, 5))


def test_a_store_that_cannot_be_opened_is_an_error_by_name(monkeypatch):
    def fail(*_, **__):
        raise OSError("HDFS connection failed")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(SourceError, match=r"opening 'hdfs://a/b' failed: OSError: HDFS connection failed\."):
        find_files(["hdfs://a/b"], Access({}, 5))


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
