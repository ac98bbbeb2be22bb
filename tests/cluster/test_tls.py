"""Mutual TLS: certificates, the tunnel of a task as other hosts see it, and its log. `test_tls_cluster.py` trains."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.cluster.namespaces import network
from tfps.cli import certs, launch
from tfps.cluster import faults
from tfps.cluster.doors import redirects
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tls import secure, stunnel_config
from tfps.cluster.tls.files import TlsFiles
from tfps.cluster.tls.stunnel_log import StunnelLog
from tfps.errors import ConfigError, LibraryError

authority = pytest.importorskip("tfps.cluster.tls.authority", reason="needs cryptography (pip install tfps[tls])")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Makes the TLS directory of a host: `pki(host)`, or `pki(host, of="another")` by another authority."""
    directory = tmp_path_factory.mktemp("pki")

    def make(host, days=1.0, of="one"):
        made = authority.write_certificates(directory / of, [host], days)[0]
        # The next one for the host would replace it.
        return made.rename(tmp_path_factory.mktemp("tls") / host)

    return make


# Certificates.


def test_a_certificate_is_good_for_its_host_alone(pki):
    for host in ("node-1.example", "10.0.0.7", "fd00::7"):
        assert "GMT" in TlsFiles(pki(host)).check(host)
    with pytest.raises(
        ConfigError, match="valid now and for the host 'node-2'.*Hostname mismatch.*not valid for 'node-2'"
    ):
        TlsFiles(pki("node-1")).check("node-2")


def test_what_a_peer_would_not_accept_is_refused_before_anything_starts(pki, tmp_path):
    files = TlsFiles(tmp_path)
    with pytest.raises(ConfigError, match="No such file or directory"):
        files.check("10.0.0.7")
    for source, replaced, message in (
        (pki("10.0.0.7", days=-1), {}, "certificate has expired"),
        (pki("10.0.0.7"), {"ca.crt": pki("10.0.0.7", of="other") / "ca.crt"}, "unable to get local issuer certificate"),
        (pki("10.0.0.7"), {"tls.key": pki("10.0.0.8") / "tls.key"}, "must be a key and its certificate.*MISMATCH"),
        (pki("10.0.0.7"), {"tls.crt": os.devnull}, "must be a key and its certificate"),
        (pki("10.0.0.7"), {"ca.crt": os.devnull}, "TLS directory"),
    ):
        shutil.copytree(source, tmp_path, dirs_exist_ok=True)
        for name, other in replaced.items():
            shutil.copyfile(other, tmp_path / name)
        with pytest.raises(ConfigError, match=message):
            files.check("10.0.0.7")


def test_the_command_makes_and_renews(tmp_path, monkeypatch, capsys):
    cluster = {"chief": ["a:1"], "ps": ["10.0.0.2:1", "10.0.0.2:2"], "worker": ["b:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}))
    pki = tmp_path / "pki"
    assert certs.main([str(pki)]) == 0
    assert capsys.readouterr().out.split() == [str(pki / host) for host in ("a", "b", "10.0.0.2")]
    files = TlsFiles(pki / "a")
    first = files.version()
    assert certs.main([str(pki), "a", "--days", "2"]) == 0
    assert files.version() != first and files.check("a")
    # The certificate of before is still good beside the new one: the authority is the same.
    assert (pki / "a" / "ca.crt").read_text() == (pki / "b" / "ca.crt").read_text()
    for path in (pki / "ca.key", pki / "a" / "tls.key"):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`DIR` must be given"),
        (["DIR"], "`HOST` must be given, or TF_CONFIG set"),
        (["DIR", "../up"], "`host` must be a host name or an IP address.*'../up'"),
        (["DIR", "a:1"], "`host` must be a host name or an IP address.*'a:1'"),
        (["DIR", "a", "--days", "0"], "`--days` must be above 0"),
        (["BROKEN", "a"], "the authority must be ca.crt and ca.key"),
        (["MIXED", "a"], "ca.crt and ca.key must belong together"),
    ],
)
def test_the_command_names_what_is_wrong(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name in ("BROKEN", "MIXED", "OTHER"):
        authority.write_certificates(tmp_path / name, ["a"], 1)
    (tmp_path / "BROKEN" / "ca.key").write_bytes(b"no key")
    shutil.copyfile(tmp_path / "OTHER" / "ca.key", tmp_path / "MIXED" / "ca.key")
    arguments = [str(tmp_path / one) if one.isupper() else one for one in arguments]
    assert certs.main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)


# Addresses and settings.


def test_the_cluster_that_tensorflow_sees_is_the_same_for_all_and_messages_show_the_real_one():
    spec = ClusterSpec(chief=("a:1",), ps=("b:1", "b:2"), worker=("c:1",))
    inner = secure.make_inner_cluster(spec)
    assert inner.as_dict() == {
        "chief": ["127.77.0.1:1"],
        "worker": ["127.77.0.4:1"],
        "ps": ["127.77.0.2:1", "127.77.0.3:2"],
    }
    assert str(inner.ps[1]) == "b:2" and inner.task_at("127.77.0.3:2") == ("ps", 1)
    import tensorflow as tf

    text = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.77.0.3:2: Failed to connect"
    error = faults.translate(tf.errors.UnavailableError(None, None, text), inner)
    assert (
        str(error).startswith("ps 1 at b:2 cannot be reached.")
        and "127.77" not in str(error).partition(". Tensor")[2][:120]
    )


def test_a_thousand_tasks_have_addresses_of_their_own():
    workers = tuple(f"host{number}:2222" for number in range(1000))
    inner = secure.make_inner_cluster(ClusterSpec(chief=("a:2222",), ps=("b:2222",), worker=workers))
    assert len({endpoint.dial for endpoint in inner.worker}) == 1000 and inner.worker[-1].dial == "127.77.4.2:2222"


def test_tls_is_refused_where_it_could_not_be_kept(monkeypatch, capsys, tmp_path):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert launch.main(["--tls", str(tmp_path), sys.executable]) == 2
    assert "`--tls` must be left out for a cluster on this machine" in capsys.readouterr().err
    assert launch.main(["--tls", str(tmp_path), "--kubernetes", "--image", "x", sys.executable]) == 2
    assert "`--tls` must be left out with --kubernetes" in capsys.readouterr().err
    secure.refuse_without_tunnel("anything")
    monkeypatch.setenv("TFPS_TLS_DIR", str(tmp_path))
    # The program of a cluster on this machine must not look for tunnels beside its servers.
    assert launch.main(["no_such_program.py"]) == 2 and "TFPS_TLS_DIR" not in os.environ
    monkeypatch.setenv("TFPS_TLS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="TFPS_TLS_DIR must be unset for MultiWorkerMirroredStrategy"):
        secure.refuse_without_tunnel("MultiWorkerMirroredStrategy")


def test_tls_is_refused_without_the_library(monkeypatch):
    monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
    with pytest.raises(LibraryError, match="TLS must have the C.. operations of tfps.*TFPS_DISABLE_OPS unset"):
        redirects.redirect("127.77.0.1:1", "127.0.0.1:2")
    assert redirects.resolve("127.77.0.1:1") == "127.77.0.1:1"


def test_what_to_install_is_named(monkeypatch):
    monkeypatch.setattr(stunnel_config.shutil, "which", lambda name, path=None: None)
    with pytest.raises(ConfigError, match="the program stunnel .*apt-get install stunnel4"):
        stunnel_config.find_stunnel()


# The log.


def read(lines, said=None):
    log = StunnelLog("ps 0", {"worker-1": "worker 1 at b:2"})
    found = [log.read(f"2026.11.30 03:06:09 {line}") for line in lines]
    return log, [one for one in found if one]


def turned_away(number, peer, *reasons):
    yield f"LOG5[{number}]: Service [in] accepted connection from {peer}"
    yield from (f"LOG4[{number}]: {reason}" for reason in reasons)
    yield f"LOG5[{number}]: Connection reset/closed: 0 byte(s) sent to TLS, 0 byte(s) sent to socket"


def test_a_peer_is_named_once_with_its_reason_and_counted():
    expired = "CERT: Pre-verification error: certificate has expired", "Rejected by CERT at depth=0: CN=x"
    useless = "SSL_accept: a.c:3530: error:0A000086:SSL routines::certificate verify failed"
    lines = [
        line for number in range(9) for line in turned_away(number, f"10.0.0.9:{4000 + number}", *expired, useless)
    ]
    log, said = read(lines)
    assert said == ["ps 0 turned away 10.0.0.9:4000: its certificate has expired (CN=x)"]
    log._said = {key: (when - 61, count) for key, (when, count) in log._said.items()}
    more = [log.read(line) for line in turned_away(10, "10.0.0.9:5000", *expired)]
    assert (
        more[-1]
        == "ps 0 turned away 10.0.0.9:5000: its certificate has expired (CN=x) (8 more of these since the last one)"
    )
    assert not log._open


def test_connections_that_are_mixed_are_kept_apart_and_good_ones_say_nothing():
    one = list(
        turned_away(
            1, "10.0.0.9:1", "SSL_accept: a.c:1: error:0A0000C7:SSL routines::peer did not return a certificate"
        )
    )
    two = list(turned_away(2, "10.0.0.8:1"))
    alert = "SSL_read: a.c:1: error:0A000415:SSL routines::sslv3 alert certificate expired"
    three = ["LOG5[3]: Service [worker-1] accepted connection from 127.0.0.1:9", f"LOG3[3]: {alert}"]
    three.append("LOG5[3]: Connection reset/closed: 0 byte(s)")
    _, said = read([one[0], two[0], *three[:2], *one[1:], *two[1:], three[2]])
    assert said == [
        "ps 0 turned away 10.0.0.9:1: it has no certificate",
        "ps 0 was turned away by worker 1 at b:2: sslv3 alert certificate expired",
    ]


# The tunnel, in network namespaces.

TASK = """
import pathlib, socket, sys, threading
from tfps.cluster.tls.files import TlsFiles
from tfps.cluster.tls.stunnel_config import Peer, find_stunnel, make_config
from tfps.cluster.tls.tunnel import Tunnel
directory, outer, *peers = sys.argv[1:]
files, inner = TlsFiles(pathlib.Path(directory)), socket.create_server(("127.0.0.1", 7000))
peers = [Peer(f"worker {number}", peer, f"127.0.0.1:{7001 + number}") for number, peer in enumerate(peers)]
config = make_config(files, outer, "127.0.0.1:7000", peers)
host = outer.rpartition(":")[0]
tunnel = Tunnel("ps 0", find_stunnel(), config, files, host, {peer.service: peer.name for peer in peers})
tunnel.start()
print("tunnel", tunnel.pid, flush=True)
def echo(connection):
    connection.sendall(b"hello")
    while data := connection.recv(100):
        connection.sendall(data)
while True:
    threading.Thread(target=echo, args=(inner.accept()[0],), daemon=True).start()
"""

CLIENT = """
import socket, ssl, sys
address, directory, version = sys.argv[1:]
host, _, port = address.rpartition(":")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.maximum_version = getattr(ssl.TLSVersion, version)
if directory != "none":
    context.load_cert_chain(f"{directory}/tls.crt", f"{directory}/tls.key")
try:
    connection = socket.create_connection((host, int(port)), timeout=20)
    if directory != "plain":
        connection = context.wrap_socket(connection)
    connection.settimeout(20)
    print("open" if connection.recv(5) == b"hello" else "closed")
except (OSError, ssl.SSLError) as error:
    print("closed")
"""


@pytest.fixture(scope="module")
def hosts():
    """A host for a task, one for its peer, and one for whom it may concern."""
    if not any(map(shutil.which, ("stunnel4", "stunnel"))):
        pytest.skip("needs stunnel (Debian: stunnel4)")
    with network("task", "peer", "other") as net:
        yield net


class Behind:
    """A server behind a tunnel on the host "task"; its peer is the host "peer"."""

    def __init__(self, net, directory, folder):
        self.net, self.address = net, f"{net.address('task')}:7443"
        self.err = folder / "err"
        command = net.inside(
            "task", sys.executable, "-c", TASK, str(directory), self.address, f"{net.address('peer')}:7443"
        )
        environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2]), "TMPDIR": str(folder)}
        with open(self.err, "w") as err:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=environment)
        self.tunnel_pid = int(self.process.stdout.readline().split()[1])

    def knock(self, host, directory, version="TLSv1_3"):
        """Whether a client on a host gets through, with the certificate of a directory, "none" or "plain"."""
        command = self.net.inside(host, sys.executable, "-S", "-c", CLIENT, self.address, str(directory), version)
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout.strip()

    def wait_for(self, text, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while text not in self.err.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert text in self.err.read_text(), self.err.read_text()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def behind(hosts, pki, tmp_path):
    directory = tmp_path / "tls"
    shutil.copytree(pki(hosts.address("task")), directory)
    made = Behind(hosts, directory, tmp_path)
    made.directory = directory
    yield made
    made.end()


def test_a_peer_with_its_certificate_gets_in_and_nobody_else(behind, hosts, pki):
    other, address = hosts.address("other"), hosts.address("peer")
    assert behind.knock("peer", pki(address)) == "open"
    for directory, version, reason in (
        ("none", "TLSv1_3", "it has no certificate"),
        (pki(address, of="foreign"), "TLSv1_3", f"its certificate is of another authority (CN={address})"),
        (pki(other), "TLSv1_3", f"its certificate is for another host (CN={other})"),
        (pki(address, days=-1), "TLSv1_3", f"its certificate has expired (CN={address})"),
        (pki(address), "TLSv1_2", "it does not speak TLS 1.3"),
    ):
        assert behind.knock("other", directory, version) == "closed"
        behind.wait_for(reason)
    said = behind.err.read_text().splitlines()
    assert len(said) == 5 and all(line.startswith(f"tfps: ps 0 turned away {other}:") for line in said)


def test_certificates_are_renewed_without_a_stop(behind, hosts, pki, processes):
    own, address = hosts.address("task"), hosts.address("peer")
    # A copy that is under way does no harm.
    shutil.copyfile(pki(own) / "tls.key", behind.directory / "tls.key")
    behind.wait_for("ps 0 keeps its TLS certificate")
    assert behind.knock("peer", pki(address)) == "open"
    # Another authority: who has a certificate of the old one is turned away from now on.
    shutil.copytree(pki(own, of="new"), behind.directory, dirs_exist_ok=True)
    behind.wait_for("ps 0 takes its new TLS certificate, valid until")
    assert behind.knock("peer", pki(address, of="new")) == "open"
    assert behind.knock("peer", pki(address)) == "closed"
    assert processes.is_alive(behind.tunnel_pid)


def test_a_tunnel_that_is_killed_comes_back_and_one_whose_task_is_killed_goes(behind, hosts, pki, processes, tmp_path):
    os.kill(behind.tunnel_pid, signal.SIGKILL)
    behind.wait_for("the TLS tunnel of ps 0 ended by SIGKILL; its connections are lost, and it is started again")
    deadline = time.monotonic() + 60
    while behind.knock("peer", pki(hosts.address("peer"))) != "open":
        assert time.monotonic() < deadline
    below = processes.descendants(behind.process.pid)
    assert len(below) == 1
    behind.process.kill()
    assert processes.wait_until_gone(below)
    assert not list(tmp_path.glob("tfps-stunnel-*"))


def test_a_port_that_is_in_use_is_named(behind, hosts, pki, tmp_path):
    again = subprocess.run(
        behind.process.args,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )
    assert "Address already in use" in again.stderr


def test_a_server_that_is_not_who_it_should_be_is_not_connected_to(hosts, pki, tmp_path):
    # The host "peer" answers where the task expects its worker, but with the certificate of another host.
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    task = Behind(hosts, pki(hosts.address("task")), tmp_path / "one")
    impostor = subprocess.Popen(
        hosts.inside(
            "peer",
            sys.executable,
            "-c",
            TASK,
            str(pki(hosts.address("other"))),
            f"{hosts.address('peer')}:7443",
            task.address,
        ),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )
    try:
        assert impostor.stdout.readline().startswith("tunnel")
        through = "import socket; print(socket.create_connection(('127.0.0.1', 7001), 20).recv(5))"
        done = subprocess.run(hosts.inside("task", sys.executable, "-S", "-c", through), capture_output=True, text=True)
        assert "hello" not in done.stdout
        task.wait_for("ps 0 does not connect to worker 0: its certificate is for another host")
    finally:
        impostor.kill()
        impostor.communicate()
        task.end()
