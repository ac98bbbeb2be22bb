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


def _text_of(path: str | os.PathLike[str]) -> str:
    check_type("path", path, (str, os.PathLike), "a path or a URL")
    # A path of bytes too has `__fspath__`.
    if not isinstance(text := os.fspath(path), str):
        raise ConfigError(f"`path` must be a path or a URL. Received: {path!r}.")
    return text
