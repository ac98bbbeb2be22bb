"""`Source`: the user's model file, from which `tfps-plan` takes the model."""

import pathlib
import runpy
import sys
from typing import TYPE_CHECKING, Any

from tfps.errors import PlanError
from tfps.types import Nest

if TYPE_CHECKING:
    import keras

FUNCTIONS = ("model", "build", "build_model", "make_model")
"""The names that the function of a file may have, in the order in which they are tried."""


class Source:
    """The user's model file.

    The file runs only when the planner asks for the model. So even models at its top level are described without taking
    memory.
    """

    def __init__(self, path: str, function: str | None) -> None:
        self._path, self._function = path, function
        if not pathlib.Path(path).is_file():
            raise PlanError(f"`model` must be a Python file or a saved plan. Received: {path!r}, which is not a file.")
        self._names: dict[str, Any] = {}

    def model(self) -> "keras.Model":
        """Runs the file and returns its model."""
        # As under python itself, the file can import modules beside it.
        sys.path.insert(0, str(pathlib.Path(self._path).resolve().parent))
        try:
            # The name is not "__main__", so that the training at the end of the file does not start.
            self._names = runpy.run_path(self._path, run_name="tfps_plan")
            return self._find()
        finally:
            sys.path.pop(0)

    def inputs(self) -> Nest:
        """Returns the result of the file's `inputs()`, to call the model on; None if there is no such function."""
        # The planner calls this after `model`, which runs the file.
        return self._names["inputs"]() if callable(self._names.get("inputs")) else None

    def _find(self) -> "keras.Model":
        """Finds the model in the names that the file defines."""
        import keras

        # The name from --function wins, then the usual names. A single model under any other name comes last.
        for name in [self._function] if self._function else FUNCTIONS:
            value = self._names.get(name)
            if isinstance(value, keras.Model):
                return value
            if callable(value):
                return value()
        models = [value for value in self._names.values() if isinstance(value, keras.Model)]
        if len(models) == 1 and not self._function:
            return models[0]
        wanted = f"{self._function!r}" if self._function else f"one of {list(FUNCTIONS)} or a single keras.Model"
        defined = sorted(name for name in self._names if not name.startswith("_"))
        raise PlanError(f"{self._path} must define {wanted}. Received: {len(models)} models and the names {defined}.")
