"""The folder of this user in which programs and boards find each other: a socket for each strategy.

It is `$XDG_RUNTIME_DIR/tfps`, or `tfps-UID` in the folder of temporary files where that variable is unset, as under
cron. A board looks in both. Only its user may read or enter it: whoever can connect to a socket sees what a job trains.

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
REFUSED = b"refused: "
"""What begins the only line that a board gets if its program has too many; the rest says why."""
_LONGEST = 100
"""Characters of the path of a socket; the kernel takes 107."""


def find_folders() -> list[pathlib.Path]:
    """Returns the folders in which sockets may be, whether or not they are there; the first is for new ones."""
    runtime = env.runtime_dir()
    among_temporary = pathlib.Path(tempfile.gettempdir(), f"tfps-{os.getuid()}")
    return [pathlib.Path(runtime, "tfps"), among_temporary] if runtime else [among_temporary]


def make_folder() -> pathlib.Path:
    """Makes the folder and returns it.

    Raises:
        ClusterError: it cannot be made, or another user can read it.
    """
    folder = find_folders()[0]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ClusterError(f"the folder {folder} for the sockets of programs cannot be made: {error}.") from error
    if not _is_ours(found):
        raise ClusterError(
            f"the folder {folder} for the sockets of programs must be a folder of this user, with mode 0700. "
            f"Received: {stat.filemode(found.st_mode)} of user {found.st_uid}. Valid: XDG_RUNTIME_DIR, or remove it."
        )
    return folder


def _is_ours(found: os.stat_result) -> bool:
    """Whether a folder, by its `lstat`, is of this user alone. In a folder that all share, anybody may have made it."""
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def socket_path(folder: pathlib.Path, pid: int, number: int) -> pathlib.Path:
    """Returns the path of the socket of one strategy."""
    return folder / f"{pid}-{number}.sock"


def find_sockets() -> list[tuple[int, pathlib.Path]]:
    """Returns the process and the socket of each program that runs, in the order of their numbers.

    Removes the sockets of programs that have ended.
    """
    found = []
    for path in _listed():
        name = _NAME.fullmatch(path.name)
        if name is None:
            continue
        if is_alive(int(name[1])) and _is_listening(path):
            found.append((int(name[1]), path))
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return sorted(found)


def _listed() -> Iterator[pathlib.Path]:
    """Yields what is in the folders of this user."""
    for folder in find_folders():
        with contextlib.suppress(OSError):
            if _is_ours(folder.lstat()):
                yield from list(folder.iterdir())


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
