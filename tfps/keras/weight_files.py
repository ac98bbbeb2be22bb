"""Keras's weights files (`.weights.h5`, also in `.keras`): tables cross the chief in blocks, and values are checked.

A table is written block by block in the order of ids, and read in the same way, so the chief never has the whole of it.
The files stay those of Keras: the same names, shapes and values. Two checks are in them, because HDF5 has none by
itself. HDF5's own checksum of each chunk (fletcher32) makes every reader fail on a flipped bit, plain Keras too. The
attribute `tfps_crc32` of a variable has the CRC-32 of all of its bytes. Only tfps reads it; it also shows a chunk that
got lost, which HDF5 reads as zeros.

Threading: Keras saves and loads in the caller's thread.
"""

import contextlib
import contextvars
import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from tfps.embedding.dynamic_table import DynamicTable
from tfps.embedding.table import Table
from tfps.errors import CheckpointError
from tfps.keras import growing_weights
from tfps.keras._compat import H5_ENTRY, Variable, h5_dataset, h5_group, keras
from tfps.keras.growing_weights import SavedGrowingRows
from tfps.keras.h5_chunks import LONGEST_ROW_BYTES, ChunkedDataset
from tfps.keras.steps_of_models import steps_of
from tfps.strategy.strategy import ParameterServerStrategy

Method: TypeAlias = Callable[..., Any]
"""A method of Keras; its first argument is the object."""
CHECKSUM = "tfps_crc32"
"""The attribute of a dataset with the CRC-32 of its bytes."""
_BLOCK_BYTES = 32 << 20
"""Bytes of the rows that are on the chief at a time; what comes from the servers for the next ones adds to it."""
_LAZY_BYTES = 1 << 20
"""A smaller matrix is read at once."""
_NUMBERS = "biuf"
"""The kinds of dtypes that HDF5 can check."""


@dataclasses.dataclass
class _Call:
    """A call of Keras that saves or loads a model of ours.

    Args:
        is_load: whether it loads.
        broken: what was found to be broken. Keras collects errors, and with `skip_mismatch` it only warns of them.
    """

    is_load: bool
    broken: list[CheckpointError] = dataclasses.field(default_factory=list)


_CALL: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("tfps_weight_file", default=None)


def begins(saveable: object, *args: object, **kwargs: object) -> bool:
    """Whether Keras begins to save or load a model of our strategy; the layers of it follow within the call."""
    return _CALL.get() is None and _is_ours(saveable)


def has_tables(model: keras.Model) -> bool:
    """Whether a model of our strategy has tables."""
    return _is_ours(model) and any(isinstance(one._value, Table) for one in model.variables)


def _is_ours(saveable: object) -> bool:
    return isinstance(getattr(saveable, "_distribute_strategy", None), ParameterServerStrategy)


def save_state(stock: Method, saveable: keras.Model, *args: object, **kwargs: object) -> None:
    """Saves a model: variables are written by `save_value`."""
    # `keras.saving.save_model` and its like get here without a method of the model, maybe within an epoch.
    steps_of(saveable).settle()
    with _within(_Call(is_load=False)), _closing(args, kwargs):
        stock(saveable, *args, **kwargs)


def load_state(stock: Method, saveable: keras.Model, *args: object, **kwargs: object) -> None:
    """Loads a model: variables are read by `read_value`.

    Raises:
        CheckpointError: a variable in the file is broken.
    """
    steps_of(saveable).settle()
    with _within(_Call(is_load=True)) as call, _closing(args, kwargs):
        stock(saveable, *args, **kwargs)
        if call.broken:
            raise call.broken[0]


@contextlib.contextmanager
def _closing(args: tuple[object, ...], kwargs: dict[str, object]) -> Iterator[None]:
    """Closes the file after an error. Keras leaves it open, and HDF5 gives its old content to who opens it again."""
    try:
        yield
    except BaseException:
        file = getattr(args[0] if args else kwargs["weights_store"], "h5_file", None)
        with contextlib.suppress(OSError, RuntimeError):
            if file is not None:
                file.close()
        raise


@contextlib.contextmanager
def _within(call: _Call) -> Iterator[_Call]:
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)


def is_saving(*args: object) -> bool:
    """Whether a model of ours is being saved."""
    call = _CALL.get()
    return call is not None and not call.is_load


def is_loading(*args: object) -> bool:
    """Whether a model of ours is being loaded."""
    call = _CALL.get()
    return call is not None and call.is_load


def save_optimizer(stock: Method, optimizer: keras.optimizers.Optimizer, store: Any) -> None:
    """Saves the variables of an optimizer. Keras passes on arrays, and a slot table is no array here."""
    for index, variable in enumerate(optimizer.variables):
        store[str(index)] = variable if isinstance(store, H5_ENTRY) else variable.numpy()


def save_value(stock: Method, entry: Any, key: str, value: Any) -> None:
    """Writes a variable into a file, with its checksums.

    Raises:
        CheckpointError: the file cannot be written.
    """
    group = h5_group(entry)
    table = value._value if isinstance(value, Variable) else value
    with _named(group.file, f"{group.name}/{key}", "cannot write"):
        if isinstance(table, Table):
            if isinstance(table, DynamicTable):
                group[key].attrs[CHECKSUM] = growing_weights.save(group, key, table)
            else:
                group[key].attrs[CHECKSUM] = _save_table(group, key, table)
            return
        array = np.asarray(keras.ops.convert_to_numpy(value))
        if _has_chunks(array):
            ChunkedDataset(group, key, array.shape, array.dtype).write(0, array)
        else:
            stock(entry, key, array)
        if array.dtype.kind not in "OSU":
            group[key].attrs[CHECKSUM] = _add_checksum(0, array)


def _has_chunks(array: np.ndarray[Any, Any]) -> bool:
    # HDF5 has no checksum of a single number, and Keras has a form of its own for bfloat16.
    is_chunked = array.size > 0 and array.ndim > 0 and array.dtype.kind in _NUMBERS
    return is_chunked and array.nbytes // len(array) <= LONGEST_ROW_BYTES


def _save_table(group: Any, key: str, table: Table) -> np.uint32:
    dtype = np.dtype(table.dtype.as_numpy_dtype)
    file = ChunkedDataset(group, key, (table.rows, table.dim), dtype)
    per_block = max(1, _BLOCK_BYTES // (file.chunk_rows * table.dim * dtype.itemsize)) * file.chunk_rows
    checksum, start = np.uint32(0), 0
    for block in table.blocks(per_block):
        file.write(start, block)
        start, checksum = start + len(block), _add_checksum(checksum, block)
    return checksum


def _add_checksum(checksum: np.uint32 | int, values: np.ndarray[Any, Any]) -> np.uint32:
    """Returns the CRC-32 of some bytes and of those of an array that follow them."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return np.uint32(zlib.crc32(raw.data, int(checksum)))


def read_value(stock: Method, entry: Any, key: str) -> Any:
    """Reads a variable of a file: its value, or rows that are read later, if it may be one of a table.

    Raises:
        CheckpointError: it is broken.
    """
    dataset = h5_dataset(entry, key)
    if dataset is None:
        return stock(entry, key)
    if (ids := growing_weights.find_ids(dataset)) is not None:
        return SavedGrowingRows(dataset, ids, _read_range, _check)
    # A file in shards is closed when the next one is opened.
    if type(entry) is H5_ENTRY and dataset.ndim == 2 and dataset.dtype.kind == "f" and dataset.nbytes >= _LAZY_BYTES:
        return SavedRows(dataset)
    with _named(dataset.file, dataset.name, "cannot read"):
        value = np.asarray(stock(entry, key))
    if dataset.dtype.kind not in "OSU":
        _check(dataset, _add_checksum(0, value))
    return value


def _read_range(dataset: Any, start: int, end: int) -> np.ndarray[Any, Any]:
    """Reads some elements of a dataset.

    Raises:
        CheckpointError: it is broken.
    """
    with _named(dataset.file, dataset.name, "cannot read"):
        return np.asarray(dataset[start:end])


def _check(dataset: Any, checksum: np.uint32) -> None:
    """Compares the checksum of what was read with that of what was written."""
    written = dataset.attrs.get(CHECKSUM)
    if written is not None and int(written) != int(checksum):
        raise _broken(
            f"{_file_of(dataset.file)} is broken, or another program changed it: variable {dataset.name!r} does not "
            "match its checksum."
        )


class SavedRows(np.lib.mixins.NDArrayOperatorsMixin):
    """A matrix in a weights file. A table reads it block by block; for everybody else it is an array.

    Args:
        dataset: the `h5py.Dataset`, whose file is open while the model is loaded.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.shape, self.dtype, self.ndim, self.size = dataset.shape, dataset.dtype, 2, dataset.size

    def assign_to(self, table: Table) -> None:
        """Gives a table its rows.

        Raises:
            CheckpointError: the matrix is broken. The table may have some of its rows then.
        """
        checksum = np.uint32(0)

        def read(start: int, end: int) -> np.ndarray[Any, Any]:
            nonlocal checksum
            rows = _read_range(self._dataset, start, end)
            checksum = _add_checksum(checksum, rows)
            return rows

        table.assign_blocks(read)
        _check(self._dataset, checksum)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Reads all rows."""
        with _named(self._dataset.file, self._dataset.name, "cannot read"):
            rows = self._dataset[...]
        _check(self._dataset, _add_checksum(0, rows))
        return rows if dtype is None else rows.astype(dtype)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Computes with the array."""
        arrays = [np.asarray(one) if isinstance(one, SavedRows) else one for one in inputs]
        return getattr(function, method)(*arrays, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        """Returns a part of the array."""
        return np.asarray(self)[key]

    def __len__(self) -> int:
        """The number of rows."""
        return int(self.shape[0])

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the array: `astype`, `T`, `mean`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def is_saved_rows(variable: Variable, value: object) -> bool:
    """Whether a table is assigned rows of a file."""
    if isinstance(value, SavedRows) and isinstance(variable._value, Table):
        return True
    return isinstance(value, SavedGrowingRows)


def assign_rows(stock: Method, variable: Variable, value: SavedRows | SavedGrowingRows) -> SavedRows | SavedGrowingRows:
    """Assigns a table the rows of a file.

    Raises:
        ValueError: they have another shape, or only one of the two grows.
    """
    table = variable._value
    grows = isinstance(table, DynamicTable)
    if grows != isinstance(value, SavedGrowingRows):
        raise ValueError(
            f"variable {variable.path!r} {'grows' if grows else 'does not grow'}, and that of the file "
            f"{'does not' if grows else 'does'}. Valid: a file of the same kind, or `DynamicEmbedding.copy_from`."
        )
    if isinstance(value, SavedGrowingRows):
        if value.shape[1:] != tuple(variable.shape)[1:]:
            raise ValueError(
                f"rows of variable {variable.path!r} must have {variable.shape[1]} floats. Received: {value.shape[1]}."
            )
        value.assign_to(table)
        return value
    if tuple(value.shape) != tuple(variable.shape):
        raise ValueError(
            f"the value of variable {variable.path!r} must have its shape. Received: {tuple(value.shape)}. "
            f"Valid: {tuple(variable.shape)}."
        )
    value.assign_to(variable._value)
    return value


def load_weights(stock: Method, model: keras.Model, filepath: Any, *args: object, **kwargs: object) -> object:
    """Loads weights; a file that HDF5 cannot open is named."""
    try:
        return stock(model, filepath, *args, **kwargs)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:
        if type(error).__module__ != "builtins":
            raise
        raise CheckpointError(f"cannot read {filepath}: {_reason(error)}.") from None


@contextlib.contextmanager
def _named(file: Any, variable: str, problem: str) -> Iterator[None]:
    """Raises errors of HDF5 as ours, with the file and the variable."""
    try:
        yield
    # h5py raises RuntimeError where HDF5 has no better class.
    except (OSError, RuntimeError) as error:
        if type(error).__module__ != "builtins":
            raise
        raise _broken(f"{problem} variable {variable!r} of {_file_of(file)}: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """Returns what an error of HDF5 says, whose text has several lines of internals behind the number of the system."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split())


def _broken(message: str) -> CheckpointError:
    error = CheckpointError(message)
    call = _CALL.get()
    if call is not None:
        call.broken.append(error)
    return error


def _file_of(file: Any) -> str:
    # A file in memory, within a `.keras` file, has the name of an object in place of a path.
    name = file.filename
    return name if isinstance(name, str) and not name.startswith("<") else "the weights file"
