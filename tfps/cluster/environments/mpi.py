"""The place of a task among those of Open MPI's `mpirun`: `mpirun -n 6 tfps-launch train.py`.

`mpirun` tells a process its rank and not where the others are. So each process reserves a port on its host, and all
exchange their addresses by one call of MPI (`mpi_exchange.py`), in a child process: MPI's threads and signal handlers
end with the child, before TensorFlow is loaded. MPI has no part in training.
"""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

from tfps import env
from tfps.checks import show_value
from tfps.cluster.endpoints import check_addresses
from tfps.cluster.environments.ranks import Ranks, read_integer
from tfps.cluster.ports import LOOPBACK, reserve_address
from tfps.errors import ClusterError, ConfigError

_NAME = "Open MPI"
_TCP_ALONE = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self"}
"""The transport of the exchange, whatever the user has set for other programs. Training needs TCP anyway, and the
exchange is small. Shared memory fails where processes of one machine belong to several daemons or containers."""
_RANK, _SIZE = "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"


def read_ranks() -> Ranks | None:
    """Returns this task's rank among those of `mpirun`, or None if `mpirun` has not started this process.

    Raises:
        ConfigError: a variable of `mpirun` is missing or breaks its rule, or the MPI is not Open MPI.
    """
    if not os.environ.get(_RANK) and not os.environ.get(_SIZE):
        return None
    size = read_integer(_SIZE, _NAME, at_least=1)
    rank = read_integer(_RANK, _NAME, below=(_SIZE, size))
    return Ranks(_NAME, rank, size, _SIZE, lambda: _exchange_addresses(size))


def refuse_other_mpi() -> None:
    """Refuses the tasks of an MPI that is not Open MPI: each would start a cluster of its own.

    Raises:
        ConfigError: such an MPI has started this process as one of several.
    """
    # The variables of Hydra, the process manager of MPICH, Intel MPI and MVAPICH.
    size = os.environ.get("PMI_SIZE", "").strip()
    if size not in ("", "1"):
        raise ConfigError(
            f"`PMI_SIZE` must be 1 or unset: tfps asks {_NAME} and SLURM for roles, and no other process manager. "
            f"Received: {size!r}. Valid for other process managers: TF_CONFIG."
        )


# Once in a process: a second strategy of the chief would wait for servers that are past their own call.
@functools.cache
def _exchange_addresses(size: int) -> tuple[str, ...]:
    """Sends this task's address to all others, and returns the address of each rank."""
    # Its own name is what other hosts know this one by; TF_CONFIG is for hosts where that is not so.
    port = reserve_address().rpartition(":")[2]
    addresses = parse_addresses(_run_exchange(f"{socket.gethostname()}:{port}"), size)
    if len({address.rpartition(":")[0] for address in addresses}) > 1:
        return tuple(addresses)
    # On one host no name needs to be known.
    return tuple(f"{LOOPBACK}:{address.rpartition(':')[2]}" for address in addresses)


def parse_addresses(text: str, size: int) -> list[str]:
    """Returns the addresses that all tasks have exchanged, by rank, from their JSON text.

    Raises:
        ClusterError: the text is not a list of `size` addresses.
    """
    try:
        addresses = json.loads(text)
        check_addresses("addresses", addresses)
    except (ValueError, RecursionError) as error:
        why = str(error)[:200]
        raise ClusterError(
            f"Open MPI must exchange the addresses of all tasks. Received: {show_value(text)} ({why})."
        ) from None
    if len(addresses) != size:
        raise ClusterError(
            f"Open MPI must exchange the addresses of {size} tasks ({_SIZE}). Received: {len(addresses)} addresses."
        )
    result: list[str] = addresses
    return result


def _run_exchange(address: str) -> str:
    """Runs the exchange in a child process, and returns its answer."""
    limit_s = env.join_timeout_s()
    # Isolated: the folder of the script, which Python would search first, has modules with common names.
    command = [sys.executable, "-I", str(pathlib.Path(__file__).with_name("mpi_exchange.py")), address]
    try:
        done = subprocess.run(
            command,
            env=os.environ | _TCP_ALONE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"Open MPI did not exchange the addresses of its tasks within {limit_s:g} s (TFPS_JOIN_TIMEOUT_S). "
            "Every task of `mpirun` must be a task of the cluster."
        ) from None
    if done.returncode != 0:
        raise ClusterError(f"Open MPI did not exchange the addresses of its tasks: {done.stderr.strip()[-2000:]}")
    return done.stdout
