"""`ModelLayers`: the layers of a model, and which layer each variable belongs to.

Threading: any.
"""

from collections.abc import Iterator

import keras

from tfps.embedding.table import Table
from tfps.keras._compat import Variable
from tfps.keras.optimizers import value_of
from tfps.types import VariableKey


class ModelLayers:
    """The layers of a built model by path.

    The path of a layer is the one of Keras, "deep/hidden" for a layer of a nested model, without the name of a model
    that is no part of the paths of its variables in other programs: Keras numbers such names.

    Args:
        model: a built model.

    Attributes:
        layers: the layers, those of nested models after their model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.layers: list[keras.layers.Layer] = list(model._flatten_layers(include_self=False))
        self._prefix = f"{model.name}/"
        self._paths: dict[int, str] = {}
        for layer in self.layers:
            path = self._plain(layer.path or layer.name)
            # Keras lets layers have one name.
            while path in self._paths.values():
                path += "'"
            self._paths[id(layer)] = path
        # The layer of a nested model comes later than the model, and has the variable.
        owners = {id(variable): layer for layer in self.layers for variable in layer.variables}
        self._variables = {id(variable): variable for layer in self.layers for variable in layer.variables}
        own = {id(variable): variable for variable in model.variables if id(variable) not in owners}
        self._variables |= own
        self._owners = {key: self._paths[id(layer)] for key, layer in owners.items()} | dict.fromkeys(own, "")
        self._tables = {
            value.key: key for key, variable in self._variables.items() if isinstance(value := value_of(variable), Table)
        }
        self._of_rows = {
            id(layer.embeddings): layer
            for layer in self.layers
            if isinstance(layer, keras.layers.Embedding) and layer.built
        }

    def _plain(self, path: str) -> str:
        return path.removeprefix(self._prefix)

    @property
    def names(self) -> dict[str, str]:
        """The name of each layer by path, in order."""
        return {self._paths[id(layer)]: layer.name for layer in self.layers}

    def path_of(self, layer: keras.layers.Layer) -> str:
        """Returns the path of a layer."""
        return self._paths[id(layer)]

    def locate(self, variable: keras.Variable) -> tuple[str, str]:
        """Returns the path of the layer that has a variable, and the name of the variable in it."""
        owner = self._owners.get(id(variable), "")
        return owner, str(variable.name)

    def locate_table(self, key: VariableKey) -> tuple[str, str] | None:
        """Returns the same for a table; None if no layer of the model has it."""
        return self.locate(self._variables[self._tables[key]]) if key in self._tables else None

    def dense_variables(self) -> Iterator[keras.Variable]:
        """Yields the variables of floating-point numbers that are no matrix of rows, in the order of the layers."""
        for key, variable in self._variables.items():
            is_rows = key in self._of_rows or isinstance(value_of(variable), Table)
            if not is_rows and isinstance(variable, Variable) and "float" in str(variable.dtype):
                yield variable

    def has_rows(self, variable: keras.Variable) -> bool:
        """Whether a variable is a matrix of which a step uses rows."""
        return id(variable) in self._of_rows or isinstance(value_of(variable), Table)

    def reads_rows_itself(self, layer: keras.layers.Layer) -> bool:
        """Whether a layer is an embedding whose matrix is no table: a step then has no lookups of it."""
        return (
            isinstance(layer, keras.layers.Embedding)
            and layer.built
            and not isinstance(value_of(layer.embeddings), Table)
        )
