"""The folder of this user in which programs and boards find each other: a socket for each strategy.

It is `$XDG_RUNTIME_DIR/tfps`, or `tfps-UID` in the folder of temporary files where the system has no such folder. Only
its user may read or enter it: whoever can connect to a socket sees what a job trains.

A socket is named `PID-NUMBER.sock`. A program that was killed leaves its socket behind; whoever finds it removes it.
"""

import contextlib
import os
import pathlib
import re
import socket
import stat
import tempfile
from collections.abc import Iterator

from tfps import env
from tfps.errors import ClusterError

_NAME = re.compile(r"(\d+)-(\d+)\.sock")
_LONGEST = 100
"""Characters of the path of a socket; the kernel takes 107."""


def find_folder() -> pathlib.Path:
    """Returns the folder, whether or not it is there."""
    runtime = env.runtime_dir()
    return pathlib.Path(runtime, "tfps") if runtime else pathlib.Path(tempfile.gettempdir(), f"tfps-{os.getuid()}")


def make_folder() -> pathlib.Path:
    """Makes the folder and returns it.

    Raises:
        ClusterError: it cannot be made, or another user can read it.
    """
    folder = find_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # `lstat`: in a folder that all users share, another one may have put a link here.
        found = folder.lstat()
    except OSError as error:
        raise ClusterError(f"the folder {folder} for the sockets of programs cannot be made: {error}.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ClusterError(
            f"the folder {folder} for the sockets of programs must be a folder of this user, with mode 0700. "
            f"Received: {stat.filemode(found.st_mode)} of user {found.st_uid}. Valid: XDG_RUNTIME_DIR, or remove it."
        )
    return folder


def socket_path(folder: pathlib.Path, pid: int, number: int) -> pathlib.Path:
    """Returns the path of the socket of one strategy."""
    return folder / f"{pid}-{number}.sock"


def find_sockets() -> list[tuple[int, pathlib.Path]]:
    """Returns the process and the socket of each program that runs, those that began first first.

    Removes the sockets of programs that have ended.
    """
    folder, found = find_folder(), []
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            name = _NAME.fullmatch(path.name)
            if name is None:
                continue
            if is_alive(int(name[1])) and _is_listening(path):
                found.append((int(name[1]), path))
            else:
                path.unlink(missing_ok=True)
    return found


def is_alive(pid: int) -> bool:
    """Returns whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def short_address(path: pathlib.Path) -> Iterator[str]:
    """Gives an address for a socket whose path may be longer than the kernel allows."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def connect(path: pathlib.Path, timeout_s: float) -> socket.socket:
    """Connects to the socket of a program.

    Raises:
        OSError: nobody listens there.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout_s)
    try:
        with short_address(path) as address:
            client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def _is_listening(path: pathlib.Path) -> bool:
    """Whether somebody listens at a socket. The number of a process may belong to another program by now."""
    try:
        connect(path, 1.0).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    # One that is too busy to answer is there.
    except OSError:
        return True
    return True
