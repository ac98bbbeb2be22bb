"""A batch as a list of tensors and a description of its structure in JSON, and back.

Threading: any.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.errors import DumpError
from tfps.types import Nest

Description: TypeAlias = dict[str, Any]
"""The kind of a part, and its parts: {"tuple": [...]}, {"dict": {...}}, {"tensor": 3}, {"none": true}."""


def flatten(batch: Nest) -> tuple[Description, list[tf.Tensor]]:
    """Returns the description of a batch and its tensors; those of a ragged or sparse tensor are several."""
    tensors: list[tf.Tensor] = []
    return _describe(batch, tensors), tensors


def _describe(part: Nest, tensors: list[tf.Tensor]) -> Description:
    if part is None:
        return {"none": True}
    if isinstance(part, dict):
        return {"dict": {str(name): _describe(one, tensors) for name, one in part.items()}}
    if isinstance(part, list | tuple):
        return {"tuple" if isinstance(part, tuple) else "list": [_describe(one, tensors) for one in part]}
    if isinstance(part, tf.RaggedTensor):
        return {"ragged": [_describe(one, tensors) for one in (part.flat_values, *part.nested_row_splits)]}
    if isinstance(part, tf.SparseTensor):
        return {"sparse": [_describe(one, tensors) for one in (part.indices, part.values, part.dense_shape)]}
    tensors.append(tf.convert_to_tensor(part))
    return {"tensor": len(tensors) - 1}


def restore(description: Description, arrays: Sequence[Any]) -> Nest:
    """Returns the batch of a description, of tensors.

    Args:
        description: the description.
        arrays: its arrays.

    Raises:
        DumpError: the description is none of `flatten`.
    """
    try:
        return _restore(description, arrays)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DumpError(f"the description of a batch is broken: {error}.") from None


def _restore(description: Description, arrays: Sequence[Any]) -> Nest:
    ((kind, parts),) = description.items()
    if kind == "none":
        return None
    if kind == "tensor":
        return tf.convert_to_tensor(arrays[parts])
    if kind == "dict":
        return {name: _restore(one, arrays) for name, one in parts.items()}
    restored = list(_each(parts, arrays))
    if kind == "ragged":
        return tf.RaggedTensor.from_nested_row_splits(restored[0], restored[1:])
    if kind == "sparse":
        return tf.SparseTensor(*restored)
    return {"tuple": tuple, "list": list}[kind](restored)


def _each(parts: Sequence[Description], arrays: Sequence[Any]) -> Iterator[Nest]:
    for part in parts:
        yield _restore(part, arrays)
