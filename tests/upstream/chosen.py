"""Chooses the tests of Keras that say something about tfps: of models, their training and saving, and of tables."""

import pathlib
import re

FOLDERS = {"callbacks", "distillation", "export", "models", "optimizers", "saving", "trainers", "wrappers"}
"""All tests of these folders of keras/src and of the folders below them are chosen."""
LEFT_OUT = {"applications", "jax"}
"""No test of these folders is chosen: image models that take minutes, and another backend."""
_TELLING = re.compile(
    r"[Ee]mbedding|\.(fit|evaluate|predict|export|save|save_weights|(train|test|predict)_on_batch)\(|model\.compile\("
)
"""Of the other tests, those are chosen whose source has a match."""


def is_chosen(path: pathlib.Path, source: str) -> bool:
    """Returns whether a test is chosen, or any test of a file.

    Args:
        path: the file of the test.
        source: the source of the test, or of the whole file.
    """
    folders = set(path.parent.parts)
    if folders & LEFT_OUT:
        return False
    return bool(folders & FOLDERS) or "embedding" in path.name or _TELLING.search(source) is not None
