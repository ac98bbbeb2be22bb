"""Reads files on the machines of other tasks, which can only run graphs. Cost: one call of some ten milliseconds."""

from collections.abc import Sequence

import tensorflow as tf

_SAMPLE = 8
"""The most tasks of a job that are read: the tasks of a job are alike, and each call takes time."""


def sample(count: int) -> list[int]:
    """Picks up to `_SAMPLE` indices below `count`, evenly spread."""
    return [i * count // min(count, _SAMPLE) for i in range(min(count, _SAMPLE))]


def read_files(places: Sequence[str], names: Sequence[str], most_lines: int = -1) -> list[str]:
    """Reads text files on each device; returns the lines of all files of a device as one text.

    Args:
        places: the devices.
        names: the paths of the files.
        most_lines: the number of lines after which it stops; -1 for no limit.

    Raises:
        tf.errors.OpError: a file cannot be read, or a task does not answer.
    """

    @tf.function(autograph=False)
    def read() -> list[tf.Tensor]:
        texts = []
        for device in places:
            with tf.device(device):
                # Files of /proc report a size of 0. A dataset of lines does not ask for the size and reads to the end.
                lines = tf.data.TextLineDataset(list(names)).take(most_lines)
                texts.append(lines.reduce("", lambda before, line: tf.strings.join([before, line], "\n")))
        return texts

    return [text.numpy().decode() for text in read()]
