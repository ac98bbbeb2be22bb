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
        layers: the layers that compute something, those of nested models after their model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.layers: list[keras.layers.Layer] = [
            layer
            for layer in model._flatten_layers(include_self=False)
            if not isinstance(layer, keras.layers.InputLayer)
        ]
        self._paths: dict[int, str] = {}
        seen: set[str] = set()
        for layer in self.layers:
            path = str(layer.path or layer.name).removeprefix(f"{model.name}/")
            # Keras lets layers have one name.
            while path in seen:
                path += "'"
            self._paths[id(layer)] = path
            seen.add(path)
        # The layer of a nested model comes later than the model, and has the variable.
        owners = {id(variable): layer for layer in self.layers for variable in layer.variables}
        self._variables = {id(variable): variable for layer in self.layers for variable in layer.variables}
        own = {id(variable): variable for variable in model.variables if id(variable) not in owners}
        self._variables |= own
        self._owners = {key: self._paths[id(layer)] for key, layer in owners.items()} | dict.fromkeys(own, "")
        self._names = self._name_variables()
        self._tables = {
            value.key: key
            for key, variable in self._variables.items()
            if isinstance(value := value_of(variable), Table)
        }
        self._of_rows = {
            id(layer.embeddings): layer
            for layer in self.layers
            if isinstance(layer, keras.layers.Embedding) and layer.built
        }

    def _name_variables(self) -> dict[int, tuple[str, str]]:
        names: dict[int, tuple[str, str]] = {}
        seen: set[tuple[str, str]] = set()
        for key, variable in self._variables.items():
            owner, name = self._owners[key], str(variable.name)
            # A layer may have several variables of one name.
            while (owner, name) in seen:
                name += "'"
            names[key] = owner, name
            seen.add((owner, name))
        return names

    @property
    def names(self) -> dict[str, str]:
        """The name of each layer by path, in order."""
        return {self._paths[id(layer)]: layer.name for layer in self.layers}

    def path_of(self, layer: keras.layers.Layer) -> str:
        """Returns the path of a layer."""
        return self._paths[id(layer)]

    def locate(self, variable: keras.Variable) -> tuple[str, str]:
        """Returns the path of the layer that has a variable, and the name of the variable in it."""
        return self._names.get(id(variable), ("", str(variable.name)))

    def locate_table(self, key: VariableKey) -> tuple[str, str] | None:
        """Returns the same for a table; None if no layer of the model has it."""
        return self.locate(self._variables[self._tables[key]]) if key in self._tables else None

    def dense_variables(self, only_floats: bool = True) -> Iterator[keras.Variable]:
        """Yields the variables that are no matrix of rows, in the order of the layers.

        Args:
            only_floats: whether variables of integers are left out, such as the state of a random generator.
        """
        for variable in self._variables.values():
            is_dense = isinstance(variable, Variable) and not self.has_rows(variable)
            if is_dense and (not only_floats or "float" in str(variable.dtype)):
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
