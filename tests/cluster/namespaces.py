"""Other hosts for tests: network namespaces of Linux, joined by a bridge. They need root and iproute2."""

import contextlib
import itertools
import os
import shutil
import subprocess

import pytest

_COUNT = itertools.count()


def ip(words):
    return subprocess.run(["ip", *words.split()], capture_output=True, text=True, timeout=60)


def _must(words):
    done = ip(words)
    assert done.returncode == 0, f"ip {words}: {done.stderr}"


class Network:
    """Hosts of one network, 10.201.N.0/24. Host 0 has the address .1, and so on. All go with the network."""

    def __init__(self, names):
        # Of this process, because other tests may make networks at the same time.
        number = (os.getpid() * 8 + next(_COUNT)) % 1000
        self._prefix, self._names = f"tfps{number:03}", list(names)
        self.subnet = f"10.201.{number % 250}"

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self._make_namespace("net")
            _must(f"-n {self.namespace('net')} link add bridge type bridge")
            _must(f"-n {self.namespace('net')} link set bridge up")
            for name in self._names:
                self._make_namespace(name)
                self.connect(name, self.namespace(name))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def namespace(self, name):
        return f"{self._prefix}-{name}"

    def address(self, name):
        return f"{self.subnet}.{1 + self._names.index(name)}"

    def inside(self, name, *command):
        """The command on a host."""
        return ["ip", "netns", "exec", self.namespace(name), *command]

    def connect(self, name, namespace=None):
        """Gives a host, or with None this machine under a name, a card on the bridge."""
        if name not in self._names:
            self._names.append(name)
        number, net = self._names.index(name), self.namespace("net")
        ours, theirs = f"{self._prefix}{number}a", f"{self._prefix}{number}b"
        _must(f"link add {ours} type veth peer name {theirs}")
        if namespace is None:
            self._stack.callback(ip, f"link del {ours}")
        _must(f"link set {theirs} netns {net}")
        _must(f"-n {net} link set {theirs} master bridge up")
        at = "" if namespace is None else f"-n {namespace} "
        if namespace is not None:
            _must(f"link set {ours} netns {namespace}")
        _must(f"{at}addr add {self.address(name)}/24 dev {ours}")
        _must(f"{at}link set {ours} up")

    def _make_namespace(self, name):
        _must(f"netns add {self.namespace(name)}")
        self._stack.callback(ip, f"netns del {self.namespace(name)}")
        _must(f"-n {self.namespace(name)} link set lo up")


@contextlib.contextmanager
def network(*names):
    """A network with these hosts; the test is skipped where that is not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("needs `ip` (Debian: iproute2)")
    probe = f"tfps-probe-{os.getpid()}"
    allowed = ip(f"netns add {probe}").returncode == 0
    ip(f"netns del {probe}")
    if not allowed:
        pytest.skip("needs the right to make network namespaces")
    with Network(names) as made:
        yield made
