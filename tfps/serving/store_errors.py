"""Errors of file systems and of the libraries behind fsspec, as errors of ours that name the path."""

import contextlib
from collections.abc import Iterator

from tfps.errors import ExportError


@contextlib.contextmanager
def named(path: str, verb: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """Raises errors of a file system as ours, with the path. A missing file that is read stays `FileNotFoundError`.

    Args:
        path: the path or URL, for messages.
        verb: what is done to it.
        kind: the errors. The libraries behind fsspec have errors of their own, which may be any.
    """
    try:
        yield
    # Callers decide what a missing file means: no export yet, or a version that was removed.
    except (FileNotFoundError, kind) as error:
        if isinstance(error, FileNotFoundError) and verb == "read":
            raise
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ExportError(f"cannot {verb} {path}: {why}.") from error
