"""Workers write their steps into an object store, from which dumps are read and compared."""

import json
import os
import pathlib

import pytest

from tests import programs

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json, os, sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
host, port = server.get_host_and_port()
# Before the workers start: they have the environment of the program.
os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
os.environ["FSSPEC_S3_ENDPOINT_URL"] = f"http://{host}:{port}"
import s3fs
s3fs.S3FileSystem().mkdir("bucket")
import numpy as np, tfps
from tests.debug.models import inputs, trained, BATCH
from tfps.callbacks import Dump, FirstNaN
from tfps.cli.dump import main
from tfps.debug.nan_file import read_saved

strategy = tfps.ParameterServerStrategy(tfps.LocalCluster(num_ps=1, num_workers=1), dense_tables_bytes=0)
trained(strategy, [Dump("s3://bucket/ours")])
trained(None, [Dump(sys.argv[1])])
x, y = inputs()
y[3 * BATCH] = np.nan
trained(strategy, [FirstNaN("s3://bucket/nan")], data=(x, y))
refused = ""
try:
    Dump("s3://bucket/ours")
except tfps.errors.ConfigError as error:
    refused = str(error)
status = main(["diff", "s3://bucket/ours", sys.argv[1]])
print(json.dumps({"status": status, "step": read_saved("s3://bucket/nan").step, "refused": refused}), flush=True)
strategy.close()
server.stop()
"""


@pytest.mark.slow
def test_a_dump_in_an_object_store(tmp_path):
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    done = programs.run(["-c", PROGRAM, str(tmp_path / "dump")], env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert result["status"] == 0 and result["step"] == 3
    assert "must be a folder without a dump. Received: 's3://bucket/ours'" in result["refused"]
