"""Exports tables that are dictionaries, in the files of the real writer; knows what each version had."""

import copy

import numpy as np

from tfps.saving.version_list import VersionList
from tfps.serving.row_files import crc32, encode_dense, encode_evicted, encode_rows
from tfps.serving.stores import open_store
from tfps.serving.versions import DELTA, FULL, MANIFEST, ExportedFile, ExportedTable, Version


class Exporter:
    """A training that has tables by name, each with rows by id.

    Attributes:
        states: the tables of each version, by its number.
    """

    def __init__(self, url, dims=None, keep=2, seed=0):
        self.store = open_store(url)
        self.versions = VersionList(self.store, keep)
        self.dims = {"items/embeddings": 3} if dims is None else dims
        self.tables = {name: {} for name in self.dims}
        self.dense = {"top/kernel": np.zeros((2, 1), np.float32)}
        self.changed = {name: set() for name in self.dims}
        self.gone = {name: set() for name in self.dims}
        self.states = {}
        self.rng = np.random.default_rng(seed)

    def train(self, ids, name="items/embeddings"):
        """Gives rows new values."""
        for one in ids:
            self.tables[name][int(one)] = self.rng.random(self.dims[name], np.float32)
            self.changed[name].add(int(one))
            self.gone[name].discard(int(one))

    def evict(self, ids, name="items/embeddings"):
        for one in ids:
            if self.tables[name].pop(int(one), None) is not None:
                self.gone[name].add(int(one))
                self.changed[name].discard(int(one))

    def export(self, kind=DELTA, beside=False, as_of=100.0):
        """Writes and publishes a version; `beside` adds a full one to the newest delta."""
        number = self.versions.newest if beside else self.versions.next_number()
        if kind == FULL and not beside:
            self.versions.begin_chain()
        parent = self.versions.newest_parent if beside else self.versions.newest
        self.dense["top/kernel"] = self.dense["top/kernel"] + (not beside)
        ids = {name: sorted(rows if kind == FULL else self.changed[name]) for name, rows in self.tables.items()}
        gone = {name: np.array(sorted(found if kind == DELTA else ()), np.int64) for name, found in self.gone.items()}
        files = {"dense.npz": ("dense", encode_dense(self.dense))}
        if any(found.size for found in gone.values()):
            files["evicted.parquet"] = (
                "evicted",
                encode_evicted([(n, found) for n, found in gone.items() if found.size]),
            )
        # Two files and small row groups, so that a version is made of parts.
        for part in range(2):
            pieces = [self._piece(name, ids[name][part::2]) for name in ids]
            files[f"rows-0-of-1/part-{part:05}.parquet"] = ("rows", encode_rows([one for one in pieces if one[1].size]))
        draft = self.store.begin(f"{kind}-{number}")
        for path, (_, data) in files.items():
            draft.write(path, data)
        version = Version(
            kind, number, parent, self.versions.chain_id, 10 * number, as_of, "tests",
            tuple(ExportedTable(name, self.dims[name], len(ids[name]), gone[name].size) for name in ids),
            tuple(ExportedFile(path, holds, len(data), crc32(data)) for path, (holds, data) in files.items()),
        )  # fmt: skip
        draft.write(MANIFEST, version.to_json())
        draft.finish()
        self.versions.publish(version)
        self.states[number] = copy.deepcopy((self.tables, self.dense))
        for one in (*self.changed.values(), *self.gone.values()):
            one.clear()
        return number

    def _piece(self, name, ids):
        rows = np.array([self.tables[name][one] for one in ids], np.float32).reshape(len(ids), self.dims[name])
        return name, np.array(ids, np.int64), rows


def assert_has(follower, state):
    """The follower has the rows and dense variables of a state, and no others."""
    tables, dense = state
    assert follower.tables == {name: len(rows) for name, rows in tables.items()}
    for name, rows in tables.items():
        ids = np.array(sorted(rows), np.int64)
        np.testing.assert_array_equal(follower.ids(name), ids)
        found_rows, found = follower.lookup(name, ids)
        assert found.all()
        np.testing.assert_array_equal(found_rows, np.array([rows[one] for one in ids]).reshape(found_rows.shape))
    assert follower.dense.keys() == dense.keys()
    for name, value in dense.items():
        np.testing.assert_array_equal(follower.dense[name], value)
