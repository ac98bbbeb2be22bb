"""A web server that breaks as it is told: a store of files with ranges, or a proxy in front of another store."""

import collections
import http.client
import http.server
import re
import threading
import time


class Flaky:
    """A server at a free port of this machine.

    Args:
        files: the content of files by path ("/a.tsv"); None for a proxy.
        behind: the port of the store that a proxy is in front of.

    Attributes:
        url: "http://127.0.0.1:PORT".
        faults: for each path, what the next requests get: a status (500, 503), "cut" for half of the answer, "drop" for
            a closed connection, or "slow". "*" is any path.
        requests: the number of requests that came for each path.
    """

    def __init__(self, files=None, behind=None):
        self.files, self.behind = files, behind
        self.faults = collections.defaultdict(list)
        self.requests = collections.Counter()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"flaky": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fault_of(self, path):
        """Takes what a request gets; None for an answer."""
        with self.lock:
            self.requests[path] += 1
            for key in (path, "*"):
                if self.faults[key]:
                    return self.faults[key].pop(0)
        return None

    def close(self):
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    flaky = None

    def answer(self):
        path = self.path.partition("?")[0]
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.flaky.fault_of(path)
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(0.5)
        if isinstance(fault, int):
            self._send(fault, {}, b"planted")
            return
        status, headers, body = self._forward(data) if self.flaky.files is None else self._read(path)
        self._send(status, headers, body, is_cut=fault == "cut")

    def _read(self, path):
        content = self.flaky.files.get(path)
        if content is None:
            return 404, {}, b"no such file"
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{hash(content)}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, headers, content
        first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1]

    def _forward(self, data):
        connection = http.client.HTTPConnection("127.0.0.1", self.flaky.behind, timeout=30)
        connection.request(self.command, self.path, data, {key: value for key, value in self.headers.items()})
        answer = connection.getresponse()
        length = answer.getheader("Content-Length")
        body = answer.read()
        connection.close()
        skipped = ("content-length", "transfer-encoding", "connection", "date", "server")
        headers = {key: value for key, value in answer.getheaders() if key.lower() not in skipped}
        self._head_length = length
        return answer.status, headers, body

    def _send(self, status, headers, body, is_cut=False):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        length = len(body)
        if self.command == "HEAD" and getattr(self, "_head_length", None):
            length = self._head_length
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.wfile.flush()
        # What was promised does not come.
        self.close_connection = self.close_connection or is_cut

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  # names of http.server

    def log_message(self, *_):
        pass
