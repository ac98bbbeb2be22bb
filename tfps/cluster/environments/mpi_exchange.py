"""Exchanges one text with all processes of `mpirun` and prints the texts of all, by rank, as JSON.

A script for a process of its own, which `mpi.py` starts. It imports nothing of tfps, and calls Open MPI's C library
directly, so that no Python package for MPI is needed.
"""

import ctypes
import json
import sys
from collections.abc import Callable

_LIBRARIES = ("libmpi.so.40", "libmpi.so")
_WIDTH = 512
"""Bytes of a text: a host name has at most 253 characters."""


def exchange(text: str) -> list[str]:
    """Returns the texts of all processes, by rank. Waits for all of them."""
    mpi = _load()
    # `MPI_COMM_WORLD` and `MPI_BYTE` are macros in C, for the addresses of these objects.
    world = ctypes.byref(ctypes.c_byte.in_dll(mpi, "ompi_mpi_comm_world"))
    byte = ctypes.byref(ctypes.c_byte.in_dll(mpi, "ompi_mpi_byte"))
    _check(mpi.MPI_Init, None, None)
    size = ctypes.c_int()
    _check(mpi.MPI_Comm_size, world, ctypes.byref(size))
    received = (ctypes.c_char * (_WIDTH * size.value))()
    sent = ctypes.create_string_buffer(text.encode(), _WIDTH)
    _check(mpi.MPI_Allgather, sent, _WIDTH, byte, received, _WIDTH, byte, world)
    _check(mpi.MPI_Finalize)
    parts = [received.raw[start : start + _WIDTH] for start in range(0, len(received), _WIDTH)]
    return [part.rstrip(b"\0").decode() for part in parts]


def _load() -> ctypes.CDLL:
    problems = []
    for name in _LIBRARIES:
        try:
            # Open MPI's plugins look for its symbols among the global ones.
            return ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
        except OSError as error:
            problems.append(str(error))
    sys.exit(f"the library of Open MPI must be where the loader looks (LD_LIBRARY_PATH): {'; '.join(problems)}")


def _check(function: Callable[..., int], *arguments: object) -> None:
    # MPI aborts the process on most errors, so a status other than 0 is rare.
    status = function(*arguments)
    if status != 0:
        sys.exit(f"a call of Open MPI returned {status}")


if __name__ == "__main__":
    print(json.dumps(exchange(sys.argv[1])))
