"""`Output`: what an element of a dataset of columns has under a name, one column or several beside each other."""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfps.checks import check_list, check_type
from tfps.data.columns import Column
from tfps.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Output:
    """A tensor of an element.

    Args:
        name: its name in the element.
        columns: its column; or the columns of a stack, in order.
        is_stack: whether it is [batch, columns] and not [batch].
    """

    name: str
    columns: tuple[Column, ...]
    is_stack: bool

    @property
    def dtype(self) -> str:
        """The type of its values."""
        return _dtype(self.columns[0])

    def make(self, cells: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the tensor from the cells of all columns, [rows, ...] each, strings not hashed."""
        made = [_hashed(column, cells[column.name]) for column in self.columns]
        return tf.stack(made, axis=1) if self.is_stack else made[0]


def _dtype(column: Column) -> str:
    return column.dtype if column.buckets is None else "int64"


def _hashed(column: Column, cells: tf.Tensor) -> tf.Tensor:
    if column.buckets is None:
        return cells
    words = tf.strings.join([column.prefix, cells]) if column.prefix else cells
    return tf.strings.to_hash_bucket_fast(words, column.buckets)


def make_outputs(columns: Sequence[Column], stack: object) -> tuple[Output, ...]:
    """Returns what an element has: a stack at the place of its first column, and the columns of no stack by themselves.

    Args:
        columns: the columns that are read, in order.
        stack: see `files`.

    Raises:
        ConfigError: `stack` breaks its rule.
    """
    stacks = _check_stack({column.name: column for column in columns}, stack)
    stack_of = {column.name: name for name, members in stacks.items() for column in members}
    names = dict.fromkeys(stack_of.get(column.name, column.name) for column in columns)
    alone = {column.name: (column,) for column in columns}
    return tuple(Output(name, stacks.get(name) or alone[name], name in stacks) for name in names)


def _check_stack(columns: Mapping[str, Column], stack: object) -> dict[str, tuple[Column, ...]]:
    """Returns the columns of each stack."""
    if stack is None:
        return {}
    rule = "a mapping from names to lists of columns"
    stacks: dict[str, tuple[Column, ...]] = {}
    taken: set[str] = set()
    for name, given in check_type("stack", stack, Mapping, rule).items():
        members = check_list("stack", given, rule)
        if not isinstance(name, str) or not name or not members:
            raise ConfigError(f"`stack` must be {rule}. Received: {name!r}: {members!r}.")
        unknown = [one for one in members if one not in columns]
        if unknown:
            valid = ", ".join(columns)
            raise ConfigError(f"`stack` must have columns that are read. Received: {unknown[0]!r}. Valid: {valid}.")
        twice = [one for one in members if one in taken or members.count(one) > 1]
        if twice:
            raise ConfigError(f"`stack` must have each column once. Received: {twice[0]!r} again, in {name!r}.")
        taken.update(members)
        stacks[name] = tuple(columns[one] for one in members)
        _check_alike(name, stacks[name])
    for name in stacks:
        if name in columns and name not in taken:
            raise ConfigError(
                f"the names of `stack` must differ from those of the columns beside it. Received: {name!r}."
            )
    return stacks


def _check_alike(name: str, columns: Sequence[Column]) -> None:
    """Checks that columns fit one tensor."""
    types = {column.name: _dtype(column) for column in columns}
    if len(set(types.values())) > 1:
        raise ConfigError(f"the columns of a stack must have one type. Received: {name!r} of {types}.")
    lists = [column.name for column in columns if column.width is not None]
    if lists:
        raise ConfigError(f"the columns of a stack must be no lists. Received: {lists[0]!r} in {name!r}.")
