"""Streams of files and messages, and training that never ends.

Example::

    tfps.streaming.fit(model, tfps.streaming.Files("/logs/%Y/%m/%d/%H/*.csv", parse), window="1h", checkpoint="run/")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfps.streaming.checkpoint import WindowCheckpoint
    from tfps.streaming.continuous import fit
    from tfps.streaming.files import Files
    from tfps.streaming.interface import Planned, Source, Waiting
    from tfps.streaming.kafka import Kafka
    from tfps.streaming.windows import CountWindows, TimeWindows, Window

__all__ = [
    "CountWindows",
    "Files",
    "Kafka",
    "Planned",
    "Source",
    "TimeWindows",
    "Waiting",
    "Window",
    "WindowCheckpoint",
    "fit",
]

_MODULES = {
    "CountWindows": "windows",
    "Files": "files",
    "Kafka": "kafka",
    "Planned": "interface",
    "Source": "interface",
    "TimeWindows": "windows",
    "Waiting": "interface",
    "Window": "windows",
    "WindowCheckpoint": "checkpoint",
    "fit": "continuous",
}


def __dir__() -> list[str]:
    """Returns the public names, whether or not they are imported yet."""
    return sorted(__all__)


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used: a worker that reads a source needs no Keras."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"tfps.streaming.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'tfps.streaming' has no attribute {name!r}. Valid: {__all__}.")
