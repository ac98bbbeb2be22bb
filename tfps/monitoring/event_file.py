"""Writes scalars, histograms and pictures that TensorBoard shows. Needs the package `tensorboard`.

The package writes in a thread of its own, with a queue of ten events.
"""

import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfps.errors import LibraryError

_BUCKETS = 30


class EventFile:
    """An event file of a run.

    Threading: one thread writes.

    Args:
        folder: the folder of the run, a path or a URL that TensorFlow can write.

    Raises:
        LibraryError: `tensorboard` is not installed.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str) -> None:
        event_pb2, summary_pb2, writer = _import_tensorboard()
        self._event, self._summary = event_pb2.Event, summary_pb2
        self._writer = writer.EventFileWriter(folder)

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Adds numbers by tag."""
        self._add([self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()], step)

    def add_histogram(self, tag: str, values: "np.ndarray[Any, Any]", step: int) -> None:
        """Adds how some numbers are distributed; none of them must be NaN."""
        counts, edges = np.histogram(values.astype(np.float64), bins=_BUCKETS)
        histogram = self._summary.HistogramProto(
            min=float(values.min()),
            max=float(values.max()),
            num=float(values.size),
            sum=float(values.sum()),
            sum_squares=float(np.square(values.astype(np.float64)).sum()),
            # The format has the right end of each bucket, and begins with an empty one.
            bucket_limit=edges.tolist(),
            bucket=[0.0, *map(float, counts)],
        )
        self._add([self._summary.Summary.Value(tag=tag, histo=histogram)], step)

    def add_picture(self, tag: str, png: bytes, step: int) -> None:
        """Adds a picture.

        Args:
            tag: its tag.
            png: the PNG file.
            step: the step.
        """
        # The header of a PNG: 8 bytes of signature, 8 of the first chunk, then width and height.
        width, height = struct.unpack(">II", png[16:24])
        image = self._summary.Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._add([self._summary.Summary.Value(tag=tag, image=image)], step)

    def flush(self) -> None:
        """Writes what was added to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Writes the rest and closes the file."""
        self._writer.close()

    def _add(self, values: list[Any], step: int) -> None:
        event = self._event(wall_time=time.time(), step=step, summary=self._summary.Summary(value=values))
        self._writer.add_event(event)


def check_installed() -> None:
    """Checks that TensorBoard is installed.

    Raises:
        LibraryError: it is not.
    """
    _import_tensorboard()


def _import_tensorboard() -> tuple[Any, Any, Any]:
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer import event_file_writer
    except ImportError as error:
        raise LibraryError(
            "`tfps.callbacks.TensorBoard` needs TensorBoard, not found: pip install 'tfps[tensorboard]'."
        ) from error
    return event_pb2, summary_pb2, event_file_writer
