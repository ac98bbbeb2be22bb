"""`DumpReader`: reads a dump, whoever wrote it.

Threading: any. No TensorFlow.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from tfps.debug.folder import open_folder
from tfps.debug.step_file import HEADER, Array, Entry, Value, decode, find_steps, step_path
from tfps.errors import DumpError


class DumpReader:
    """A dump.

    Args:
        url: its folder, a path or an fsspec URL.

    Attributes:
        path: the same, absolute.
        header: what was asked for.
        steps: the (step, worker) pairs that are there, sorted.

    Raises:
        DumpError: there is no dump, or it cannot be read.
        ConfigError: fsspec cannot open such a URL.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self._folder = open_folder(url)
        self.path = self._folder.path
        workers = [name for name in self._folder.names() if name.startswith("worker-")]
        if not self._folder.exists(HEADER):
            raise DumpError(f"{self.path} must be the folder of a dump. Received: a folder without {HEADER}.")
        self.header = self._read_json(HEADER)
        if self.header.get("format") != "tfps-dump":
            raise DumpError(f"{self.path}/{HEADER} is of something else than a dump.")
        if self.header.get("version") != 1:
            raise DumpError(
                f"{self.path} must be a dump of version 1. Received: version {self.header.get('version')}. "
                "Valid: the tfps that wrote it."
            )
        self.steps = find_steps([f"{one}/{name}" for one in workers for name in self._folder.names(one)])

    @property
    def layers(self) -> list[str]:
        """The paths of its layers, in the order of the model."""
        return list(self.header["layers"])

    @property
    def workers(self) -> list[int]:
        """The numbers of the workers that have written steps."""
        return sorted({worker for _, worker in self.steps})

    def describe_steps(self, worker: int) -> str:
        """Returns the steps of a worker as text, 8 ranges at most: "steps 0 to 9, 20 of worker 0"."""
        ranges: list[list[int]] = []
        for step in (step for step, one in self.steps if one == worker):
            if ranges and step == ranges[-1][1] + 1:
                ranges[-1][1] = step
            else:
                ranges.append([step, step])
        shown = [f"{first} to {last}" if first < last else str(first) for first, last in ranges[:8]]
        more = f" and on, up to {ranges[-1][1]}" if len(ranges) > 8 else ""
        return f"steps {', '.join(shown)}{more} of worker {worker}"

    def index(self, step: int, worker: int) -> dict[str, Any]:
        """Returns the index of a step.

        Raises:
            DumpError: it is not there, or broken.
        """
        return self._read_json(f"{step_path(worker, step)}.json")

    def values(self, step: int, worker: int) -> list[Value]:
        """Returns the values of a step, in their order.

        Raises:
            DumpError: they are not there, or broken.
        """
        index = self.index(step, worker)
        file = str(index["file"])
        arrays = decode(self._folder.read(file), file.rpartition(".")[2], f"{self.path}/{file}")
        try:
            return [_value(fields, arrays) for fields in index["entries"]]
        except KeyError as error:
            raise DumpError(f"{self.path}/{file} is broken: it has no array {error}.") from None

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._folder.read(name))
        except ValueError as error:
            raise DumpError(f"{self.path}/{name} is broken: {error}.") from None
        if not isinstance(found, dict):
            raise DumpError(f"{self.path}/{name} is broken: it is no JSON object.")
        return found


def _value(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> Value:
    entry = Entry(fields["layer"], fields["kind"], fields["name"], "ids" in fields)
    return Value(entry, arrays[entry.key], arrays[entry.ids_key] if entry.has_ids else None)
