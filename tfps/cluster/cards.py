"""The cards (GPUs) of this machine, found without TensorFlow, which would take their memory.

Pure functions of the environment and of `/dev`; any thread.
"""

import glob
import os
import re


def count_cards() -> int:
    """Returns the number of NVIDIA cards that a server on this machine may use."""
    devices = [path for path in glob.glob("/dev/nvidia*") if re.fullmatch(r"/dev/nvidia\d+", path)]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA ignores what follows a number below 0, and an empty list hides all cards.
    names = [] if chosen is None else [name for name in chosen.split("-1")[0].split(",") if name.strip()]
    return len(devices) if chosen is None else min(len(devices), len(names))


def share_of_cards(number: int, sharers: int, cards: int) -> list[int]:
    """Returns the cards of one worker among those that share a machine; fewer cards than workers are used by several.

    Example: of 4 cards the second of 2 workers gets [1, 3]; of 1 card it gets [0].

    Args:
        number: the number of the worker among the workers of the machine, from 0.
        sharers: the number of these workers.
        cards: the number of cards.
    """
    if not cards:
        return []
    return list(range(number, cards, sharers)) or [number % cards]
