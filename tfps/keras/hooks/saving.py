"""Hooks into Keras's weights files: tables cross the chief in blocks, and what is broken is named.

Threading: the thread that saves or loads.
"""

from tfps.keras import weight_files
from tfps.keras._compat import H5_ENTRY, BaseOptimizer, Variable, keras, saving_lib
from tfps.keras.hooks import replacing
from tfps.keras.hooks.replacing import Method
from tfps.strategy.strategy import ParameterServerStrategy


def install() -> None:
    """Installs the hooks."""
    ours = lambda model, *args, **kwargs: isinstance(model._distribute_strategy, ParameterServerStrategy)  # noqa: E731
    replacing.replace(saving_lib, "_save_state", weight_files.save_state, weight_files.begins)
    replacing.replace(saving_lib, "_load_state", weight_files.load_state, weight_files.begins)
    replacing.replace(saving_lib, "is_memory_sufficient", _use_files, weight_files.has_tables)
    replacing.replace(H5_ENTRY, "__setitem__", weight_files.save_value, weight_files.is_saving)
    replacing.replace(H5_ENTRY, "__getitem__", weight_files.read_value, weight_files.is_loading)
    replacing.replace(BaseOptimizer, "save_own_variables", weight_files.save_optimizer, weight_files.is_saving)
    replacing.replace(Variable, "assign", weight_files.assign_rows, weight_files.is_saved_rows)
    replacing.replace(keras.Model, "load_weights", weight_files.load_weights, ours)


def _use_files(stock: Method, model: keras.Model) -> bool:
    """Makes Keras use a temporary file beside a `.keras` file, and no memory, for a model with tables."""
    return False
