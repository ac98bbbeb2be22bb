"""What the other modules of this package see of where checkpoints are: `Folder`, `Draft` and `Stored`.

A `Folder` has the checkpoints of a run. It begins a `Draft`, which no reader sees until `finish`, and opens a `Stored`.
`tfps.saving.folders` has those of file systems, `tfps.saving.stores` those of object stores.
"""

import contextlib
from typing import Protocol

from tfps.saving.manifest import Manifest


class Draft(Protocol):
    """A checkpoint that is being written.

    Attributes:
        path: the path of the complete checkpoint.
    """

    path: str

    @property
    def is_shared(self) -> bool:
        """Whether servers may be able to write its files themselves."""
        ...

    def prefix(self, bundle: str) -> str:
        """Returns the path at which a tensor bundle is written, absolute."""
        ...

    def commit(self, bundle: str) -> dict[str, int]:
        """Takes a bundle that was written; returns the bytes of each of its files."""
        ...

    def finish(self, manifest: Manifest) -> None:
        """Completes the checkpoint."""
        ...

    def discard(self) -> None:
        """Removes what was written."""
        ...


class Stored(Protocol):
    """A complete checkpoint."""

    path: str
    manifest: Manifest

    def probe(self) -> tuple[str, str] | None:
        """Returns the path of a file and its content, which a server finds if it shares the folder.

        None for an object store, whose files the chief fetches.
        """
        ...

    def fetch(self, bundle: str) -> str:
        """Returns the path of a tensor bundle, absolute, on this machine."""
        ...

    def release(self, prefix: str) -> None:
        """Ends the use of a path that `fetch` has returned."""
        ...

    def check_sizes(self) -> None:
        """Checks that all files are there, with their bytes.

        Raises:
            CheckpointError: a file is missing, or is shorter or longer.
        """
        ...


class Folder(Protocol):
    """A folder with the checkpoints of a run."""

    path: str

    def names(self) -> list[str]:
        """Returns the names of the complete checkpoints, the oldest first."""
        ...

    def complete(self) -> list[str]:
        """Returns the names of all complete checkpoints, also of those that are not numbered, which come last."""
        ...

    def incomplete(self) -> list[str]:
        """Returns the names of what looks like a checkpoint that was not completed."""
        ...

    def latest(self) -> str | None:
        """Returns the name that `latest` has; None if there is none."""
        ...

    def set_latest(self, name: str) -> None:
        """Makes a checkpoint the latest."""
        ...

    def begin(self, name: str) -> Draft:
        """Begins a checkpoint.

        Raises:
            CheckpointError: it cannot be written: it is there already, the folder is not writable, or another program
                writes it.
        """
        ...

    def open(self, name: str) -> Stored:
        """Opens a complete checkpoint, and reads its manifest.

        Raises:
            CheckpointError: it is missing or broken.
        """
        ...

    def remove(self, name: str) -> None:
        """Removes a checkpoint."""
        ...

    def child(self, name: str) -> "Folder":
        """Returns a folder in this folder."""
        ...

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other programs from writing into the folder.

        Raises:
            CheckpointError: another program writes into it.
        """
        ...
