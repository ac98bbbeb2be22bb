"""Reads stunnel's log and says which peers were turned away, and why.

stunnel writes several lines about each connection, with its number. One or two of them have the reason:

    2026.11.30 03:06:09 LOG5[5]: Service [in] accepted connection from 10.0.0.9:55402
    2026.11.30 03:06:09 LOG4[5]: CERT: Pre-verification error: certificate has expired
    2026.11.30 03:06:09 LOG4[5]: Rejected by CERT at depth=0: CN=worker-3
    2026.11.30 03:06:09 LOG5[5]: Connection reset/closed: 0 byte(s) sent to TLS, 0 byte(s) sent to socket

Threading: one thread reads. Cost: a few hundred bytes for each open connection.
"""

import dataclasses
import re
import time
from collections.abc import Mapping

from tfps.cluster.tls.stunnel_config import INCOMING

_LINE = re.compile(r"LOG(?P<level>\d)\[(?P<connection>\w+)\]: (?P<text>.*)")
_EARLY = re.compile(r"\[!\] (?P<text>.*)")
"""An error before stunnel has read where its log goes."""
_ACCEPTED = re.compile(r"Service \[(?P<service>[^\]]*)\] accepted connection from (?P<peer>\S+)")
_SUBJECT = re.compile(r"Rejected by CERT at depth=\d+: (?P<subject>.*)")
_UNVERIFIED = re.compile(r"CERT: (?:Pre-verification error: )?(?P<reason>.*)")
_TLS_ERROR = re.compile(r"SSL_(?:accept|connect|read|write|peek): .*::(?P<reason>[^:]*)$")
_ENDED = re.compile(r"Connection (?:closed|reset)")

_MINE = "ui"
"""stunnel's name for what belongs to no connection."""
_PERIOD_S = 60.0
"""The same peer is named with the same reason once in so many seconds: a scanner must not fill the log."""
_MOST_NAMED = 10_000
_READABLE = {
    "Subject checks failed": "its certificate is for another host",
    "peer did not return a certificate": "it has no certificate",
    "unable to get local issuer certificate": "its certificate is of another authority",
    "self-signed certificate in certificate chain": "its certificate is of another authority",
    "self-signed certificate": "its certificate is of another authority",
    "certificate has expired": "its certificate has expired",
    "unsupported protocol": "it does not speak TLS 1.3",
    "wrong version number": "it does not speak TLS",
    "http request": "it does not speak TLS",
}
_LATER_REASONS = ("certificate verify failed",)
"""What stunnel adds to a reason that it has already given."""


@dataclasses.dataclass
class _Connection:
    """A connection that is open, or that is about to be turned away."""

    service: str
    peer: str
    reason: str = ""
    subject: str = ""


class StunnelLog:
    """The state of one stunnel's log.

    Args:
        task: the name of the task whose tunnel it is.
        peers: the name and address of the task behind each service: {"ps-0": "ps 0 at 10.0.0.2:2222"}.
    """

    def __init__(self, task: str, peers: Mapping[str, str]) -> None:
        self._task, self._peers = task, peers
        self._open: dict[str, _Connection] = {}
        # By what was said: when, and how often it was left out since.
        self._said: dict[str, tuple[float, int]] = {}
        self.errors: list[str] = []
        """The newest errors that belong to no connection, such as a port that is in use."""
        self.configured = 0
        """How often stunnel has read its configuration without an error. Then it listens."""

    def read(self, line: str) -> str | None:
        """Takes a line, and returns what a reader of the task's log should know, if anything."""
        found = _LINE.search(line)
        if found is None:
            if early := _EARLY.match(line):
                self._read_own(0, early["text"])
            return None
        if found["connection"] == _MINE:
            self._read_own(int(found["level"]), found["text"])
            return None
        return self._read_connection(found["connection"], found["text"])

    def _read_own(self, level: int, text: str) -> None:
        if text == "Configuration successful":
            self.configured += 1
        elif level <= 3:
            self.errors = [*self.errors[-4:], text]

    def _read_connection(self, number: str, text: str) -> str | None:
        if accepted := _ACCEPTED.fullmatch(text):
            self._open[number] = _Connection(accepted["service"], accepted["peer"])
        connection = self._open.get(number)
        if connection is None:
            return None
        if subject := _SUBJECT.fullmatch(text):
            connection.subject = subject["subject"]
        elif reason := _UNVERIFIED.fullmatch(text) or _TLS_ERROR.fullmatch(text):
            if reason["reason"] not in _LATER_REASONS or not connection.reason:
                connection.reason = reason["reason"]
        elif _ENDED.match(text):
            del self._open[number]
            if connection.reason:
                return self._limit(connection)
        return None

    def _limit(self, connection: _Connection) -> str | None:
        """Returns the message, unless the same one about the same host was returned a short while ago."""
        peer = connection.peer if connection.service == INCOMING else connection.service
        key = f"{peer.rpartition(':')[0] or peer} {connection.reason} {connection.subject}"
        now = time.monotonic()
        before, left_out = self._said.get(key, (-_PERIOD_S, 0))
        if now - before < _PERIOD_S:
            self._said[key] = before, left_out + 1
            return None
        if len(self._said) > _MOST_NAMED:
            self._said.clear()
        self._said[key] = now, 0
        return self._describe(connection) + (f" ({left_out} more of these since the last one)" if left_out else "")

    def _describe(self, connection: _Connection) -> str:
        reason = _READABLE.get(connection.reason, connection.reason)
        subject = f" ({connection.subject})" if connection.subject else ""
        if connection.service == INCOMING and "alert" not in connection.reason:
            return f"{self._task} turned away {connection.peer}: {reason}{subject}"
        if connection.service == INCOMING:
            return f"{self._task} was refused by {connection.peer}, which does not accept its certificate: {reason}"
        peer = self._peers.get(connection.service, connection.service)
        if "alert" in connection.reason:
            return f"{self._task} was turned away by {peer}: {reason}"
        return f"{self._task} does not connect to {peer}: {reason}{subject}"
