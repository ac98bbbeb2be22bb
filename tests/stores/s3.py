"""An S3 for tests: moto's server in this process."""

import contextlib
import logging

import pytest


class S3:
    """A running store with one bucket.

    Attributes:
        url: the URL of its bucket: "s3://bucket".
        port: its port.
        options: what fsspec needs to open it.
    """

    url = "s3://bucket"

    def __init__(self, port):
        self.port = port
        self.options = options(port)


def options(port):
    """What fsspec needs to open the store at a port, or a proxy in front of it."""
    return {"key": "key", "secret": "secret", "endpoint_url": f"http://127.0.0.1:{port}"}


@contextlib.contextmanager
def running():
    """Runs moto's server."""
    pytest.importorskip("moto.server", reason="needs moto[server]")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel("WARNING")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    store = S3(server.get_host_and_port()[1])
    s3fs.S3FileSystem(**store.options).call_s3("create_bucket", Bucket="bucket")
    yield store
    server.stop()
