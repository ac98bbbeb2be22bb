"""Finds the folder of a path or URL."""

import os

from tfps.checks import check_type
from tfps.errors import CheckpointError, ConfigError
from tfps.saving.folders import LocalFolder
from tfps.saving.interface import Folder


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Returns the folder at a path or URL.

    Raises:
        ConfigError: it is neither.
        CheckpointError: nothing here can read such a URL.
    """
    text = _text_of(path)
    if "://" in text and not text.startswith("file://"):
        from tfps.saving.stores import StoreFolder

        return StoreFolder(text)
    return LocalFolder(text.removeprefix("file://"))


def locate(path: str | os.PathLike[str]) -> tuple[Folder, str]:
    """Returns the folder of a checkpoint and its name in it.

    Raises:
        CheckpointError: the path has no name.
    """
    text = _text_of(path).rstrip("/")
    parent, _, name = text.rpartition("/")
    # "s3://bucket" has no folder around it.
    if not name or name in (".", "..") or parent.endswith(":/"):
        raise CheckpointError(f"`path` must end with the name of a checkpoint. Received: {path!r}.")
    return open_folder(parent or ("/" if text.startswith("/") else ".")), name


def locate_latest(path: str | os.PathLike[str]) -> tuple[Folder, str]:
    """Returns the folder and the name of the checkpoint at a path, or of the latest one where it is a folder of some.

    The latest is what the folder names so; else the one with the most steps.

    Raises:
        CheckpointError: the path has no name, and no latest checkpoint in it.
    """
    run = open_folder(path)
    latest, names = run.latest(), run.names()
    if latest is not None and latest in names:
        return run, latest
    return (run, names[-1]) if names else locate(path)


def _text_of(path: str | os.PathLike[str]) -> str:
    check_type("path", path, (str, os.PathLike), "a path or a URL")
    # A path of bytes too has `__fspath__`.
    if not isinstance(text := os.fspath(path), str):
        raise ConfigError(f"`path` must be a path or a URL. Received: {path!r}.")
    return text
