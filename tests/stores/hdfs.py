"""A real HDFS for tests: a NameNode with WebHDFS and a DataNode, from what get_hadoop.sh has fetched."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

import fsspec

from tests.stores.ports import free_ports

FOLDER = pathlib.Path(os.environ.get("TEST_HADOOP_DIR", pathlib.Path.home() / ".cache/tfps-test/hadoop"))
START_S = 120.0

# Hadoop 2.7 is older than the modules of Java.
OPENS = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in ("lang", "nio", "util")]
SETTINGS = {
    "fs.defaultFS": "hdfs://127.0.0.1:{rpc}",
    "hadoop.http.staticuser.user": "tfps",
    "dfs.namenode.name.dir": "{folder}/names",
    "dfs.datanode.data.dir": "{folder}/blocks",
    "dfs.namenode.http-address": "127.0.0.1:{http}",
    "dfs.datanode.address": "127.0.0.1:{data}",
    "dfs.datanode.http.address": "127.0.0.1:{data_http}",
    "dfs.datanode.ipc.address": "127.0.0.1:{data_ipc}",
    "dfs.datanode.hostname": "127.0.0.1",
    "dfs.replication": "1",
    "dfs.permissions.enabled": "false",
    "dfs.webhdfs.enabled": "true",
    "dfs.namenode.safemode.extension": "0",
}
LOGGING = """log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.SimpleLayout
"""


def missing() -> str:
    """What this machine lacks; empty if nothing."""
    if not (FOLDER / "complete").exists():
        return "needs a NameNode: make hadoop"
    return "" if shutil.which("java") else "needs java for a NameNode: apt-get install default-jre-headless"


class Hdfs:
    """A running HDFS.

    Attributes:
        url: the URL of its root: "webhdfs://tfps@127.0.0.1:PORT".
        port: the port of its WebHDFS.
    """

    def __init__(self, folder):
        names = ("rpc", "http", "data", "data_http", "data_ipc")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.url = f"webhdfs://tfps@127.0.0.1:{ports['http']}"
        self.port = ports["http"]
        self._folder = folder
        values = {key: value.format(folder=folder, **ports) for key, value in SETTINGS.items()}
        lines = [f"<property><name>{key}</name><value>{value}</value></property>" for key, value in values.items()]
        for name in ("core-site.xml", "hdfs-site.xml"):
            (folder / name).write_text(f"<configuration>{''.join(lines)}</configuration>")
        (folder / "log4j.properties").write_text(LOGGING)
        subprocess.run([*self._java("namenode.NameNode"), "-format", "-force"], check=True, capture_output=True)
        self._tasks = [self._start("namenode.NameNode"), self._start("datanode.DataNode")]

    def _java(self, name):
        classes = f"{self._folder}:{FOLDER}:{FOLDER}/*"
        return ["java", "-Xmx192m", *OPENS, "-cp", classes, f"org.apache.hadoop.hdfs.server.{name}"]

    def _start(self, name):
        with open(self._folder / f"{name}.log", "wb") as log:
            return subprocess.Popen(self._java(name), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait(self):
        """Waits until a file can be written."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                # It answers as soon as it is up, and takes files once its DataNode has come.
                fsspec.filesystem("webhdfs", host="127.0.0.1", port=self.port, user="tfps").pipe_file("/probe", b"up")
                return
            # Errors of connections, and of a NameNode without a DataNode.
            except (OSError, RuntimeError) as error:
                assert time.monotonic() < deadline, (error, self._logs())
                time.sleep(0.3)

    def _logs(self):
        return [path.read_text()[-2000:] for path in self._folder.glob("*.log")]

    def close(self):
        """Ends it."""
        for task in self._tasks:
            task.kill()
            task.wait()


@contextlib.contextmanager
def running(folder):
    """Runs an HDFS whose files are in a folder."""
    hdfs = Hdfs(folder)
    try:
        hdfs.wait()
        yield hdfs
    finally:
        hdfs.close()
