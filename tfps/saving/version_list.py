"""`VersionList`: the versions that a program exports for serving, in order: which there are, and which stay.

`current.json` names the versions that can be read. It is replaced when a version is complete, and before one is
removed, so what it names is there. A follower that reads an older `current.json` still finds the last full chains.

Threading: one thread at a time.
"""

import secrets
from collections.abc import Sequence

from tfps.errors import ExportError
from tfps.serving.stores import Store
from tfps.serving.versions import CURRENT, FULL, Current, Entry, Version, number_of, parse_current


class VersionList:
    """The versions in one store, of which one program writes more.

    Args:
        store: where they are.
        keep: the number of full versions that stay, each with the deltas after it.

    Attributes:
        chain_id: the chain of the next version.
        under_way: the name of a version that is being written and is not listed yet, which stays; None for none.

    Raises:
        ExportError: the store cannot be read, or its `current.json` is broken.
    """

    def __init__(self, store: Store, keep: int) -> None:
        self._store, self._keep = store, keep
        self.under_way: str | None = None
        self._current = self._read()
        self.begin_chain()
        # A program that was killed may have left versions that `current.json` does not name. No number comes twice.
        self._number = max([0, *(number for name in store.names() if (number := number_of(name)) is not None)])
        if self._current is not None:
            self._number = max(self._number, self._current.number)

    @property
    def newest(self) -> int | None:
        """The number of the newest version in the store, which is the parent of the next one; None if there is none."""
        return None if self._current is None else self._current.number

    @property
    def newest_parent(self) -> int | None:
        """The number of the version before the newest one; None if there is none."""
        return None if self._current is None else self._current.entries[-1].parent

    @property
    def is_ours(self) -> bool:
        """Whether the newest version is of the chain of the next one, which may then be a delta."""
        return self._current is not None and self._current.chain_id == self.chain_id

    def begin_chain(self) -> None:
        """Begins a chain: the next version is a full one, and follows from no other."""
        self.chain_id = secrets.token_hex(8)

    def next_number(self) -> int:
        """Returns the number of the next version, which no version has had."""
        self._number += 1
        return self._number

    def publish(self, version: Version) -> None:
        """Lists a version that was written, and removes old ones.

        Args:
            version: the newest version; or a full one of this chain of an earlier number, of which the delta is listed.

        Raises:
            ExportError: another program has written versions since this one did.
        """
        self.check_alone()
        entry = Entry(version.kind, version.number, version.parent, version.chain_id, version.checksum)
        listed = [*(self._current.entries if self._current else ()), entry]
        # A delta comes before the full version of its number.
        listed.sort(key=lambda one: (one.number, one.kind == FULL))
        entries = self._chosen(listed)
        current = Current(max(self.newest or 0, version.number), version.chain_id, tuple(entries))
        self._store.replace(CURRENT, current.to_json())
        self._current = current
        self._remove({one.name for one in entries})

    def check_alone(self) -> None:
        """Raises if another program has written versions since this one did.

        Raises:
            ExportError: it has, or `current.json` is broken.
        """
        if self._read() != self._current:
            raise ExportError(
                f"another program has written versions to {self._store.path} since this one began or did. "
                "Valid: one folder for each training."
            )

    def _read(self) -> Current | None:
        try:
            return parse_current(self._store.read(CURRENT), f"{self._store.path}/{CURRENT}")
        except FileNotFoundError:
            return None

    def _chosen(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Returns the versions that stay: the newest full ones, and the deltas after the oldest of these."""
        full = [one.number for one in entries if one.kind == FULL]
        oldest = min(full[-self._keep :], default=0)
        return [one for one in entries if one.number > oldest or (one.number == oldest and one.kind == FULL)]

    def _remove(self, kept: set[str]) -> None:
        """Removes versions that `current.json` does not name, those of programs that were killed too."""
        for name in self._store.names():
            number = number_of(name)
            # Other folders are not ours.
            if number is not None and name not in kept and name.removesuffix(".partial") != self.under_way:
                self._store.remove(name)
