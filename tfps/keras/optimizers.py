"""The update of a Keras optimizer in a step: updates dense variables in place, and sends row gradients to servers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps import step
from tfps.embedding.local_table import LocalTable, find_stand_in
from tfps.embedding.merged import MergedGradient, apply_merged
from tfps.embedding.push import push
from tfps.embedding.table import Table
from tfps.errors import UnsupportedError
from tfps.keras import row_optimizers
from tfps.keras._compat import Variable, keras
from tfps.keras.multi_optimizer import parts_of, unscaled
from tfps.keras.plain_variables import check_trained
from tfps.keras.slot_scope import slot_scope
from tfps.ops import library
from tfps.ops.apply_dense import apply_dense
from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.strategy.variables import DenseVariable

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices | MergedGradient
"""A gradient of a variable. A table has `tf.IndexedSlices`, or a `MergedGradient` that lies on its servers."""
Pair: TypeAlias = tuple[Gradient, Variable]
"""A gradient and its variable."""

DEFAULT_OPTIMIZER = "_tfps_default_optimizer"
"""The attribute of a model that says whether Keras chose the compiled optimizer."""


class ScopedVariables(list[keras.Variable]):
    """A list of variables that opens the slot scope of each variable while a loop visits it.

    Keras before 3.10 does not name the variable that a slot of Adagrad or Ftrl belongs to. It creates the slots in a
    loop over the variables, so the scope of the current one is the right place.

    Args:
        optimizer: the optimizer that creates the slots.
        variables: Keras variables.
    """

    def __init__(self, optimizer: keras.Optimizer, variables: list[keras.Variable]) -> None:
        super().__init__(variables)
        self._optimizer = optimizer

    def __iter__(self) -> Iterator[keras.Variable]:
        """Yields each variable inside the scope for its slots."""
        for variable in super().__iter__():
            with slot_scope(self._optimizer, variable):
                yield variable


def optimizers_of(model: keras.Model) -> list[keras.Optimizer]:
    """Returns all optimizers of a model: the compiled one, those in its attributes, and the parts of each."""
    # A custom `train_step` (a GAN, for example) applies optimizers that the model holds in attributes, lists or dicts.
    # A model that is not compiled has no such attribute.
    optimizers = [getattr(model, "optimizer", None)]
    for value in vars(model).values():
        members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        optimizers += [member for member in members if isinstance(member, keras.optimizers.Optimizer)]
    optimizers = [part for one in optimizers if one is not None for part in (one, unscaled(one), *parts_of(one))]
    # Duplicates are found by identity: an optimizer may be both compiled and an attribute.
    return list({id(optimizer): optimizer for optimizer in optimizers}.values())


def leading_optimizer(model: keras.Model) -> keras.Optimizer | None:
    """Returns the optimizer whose mode the steps of a model have: the compiled one, if the user gave one to `compile`.

    Without one Keras compiles an RMSprop, which a `train_step` with optimizers of its own does not apply.
    """
    own = getattr(model, "optimizer", None)
    others = [one for one in optimizers_of(model) if one not in (own, unscaled(own))]
    return others[0] if others and getattr(model, DEFAULT_OPTIMIZER, False) else own


def update_step(
    optimizer: keras.Optimizer, gradients: list[Gradient], variables: list[Variable], learning_rate: tf.Tensor
) -> None:
    """Updates all variables once; replaces `_backend_update_step` of Keras.

    Args:
        optimizer: a Keras optimizer.
        gradients: the gradient of each variable; for a table usually IndexedSlices.
        variables: Keras variables.
        learning_rate: a scalar tensor.

    Raises:
        UnsupportedError: a synchronous step applies an optimizer without a mode, or a step trains a variable of which
            workers have no copy.
    """
    check_trained(variables)
    tables, dense = [], []
    for gradient, variable in zip(gradients, variables, strict=True):
        value = variable._value if isinstance(variable, Variable) else variable
        if isinstance(value, Table):
            tables.append((by_rows(gradient, value), value))
        else:
            # Keras's clipping by the global norm makes the gradient of a dense variable dense.
            if optimizer.global_clipnorm and isinstance(gradient, tf.IndexedSlices):
                gradient = tf.convert_to_tensor(gradient)
            dense.append((gradient, variable))
    # A `SyncOptimizer` contributes its gradients and does not get here, so this optimizer is in no such mode.
    current = step.current()
    if current is not None and current.contributions is not None:
        raise UnsupportedError(
            "every optimizer of a synchronous step must be in the mode of tfps.optimizers.Sync. "
            f"Received: {type(optimizer).__name__}."
        )
    # Variables that a worker has copies of are updated on the copies, all others on their own server.
    for device, pairs in _group_by_device(dense).items():
        with tf.device(device) if device else contextlib.nullcontext(), _moving(optimizer, pairs):
            for gradient, variable in _update_fused(optimizer, pairs, learning_rate):
                optimizer.update_step(gradient, variable, learning_rate)
    updates = row_optimizers.row_updates(optimizer, tables, tf.cast(learning_rate, tf.float32)) if tables else []
    # Merged gradients already lie on the servers, so their updates send no rows.
    merged = [update for update in updates if isinstance(update.gradient, MergedGradient)]
    apply_merged(merged)
    direct = [update for update in updates if update not in merged]
    known = current.gradients if current else []
    # A window has copies of some tables on the worker. The push of these stays there, and happens once with the window.
    here = [update for update in direct if isinstance(update.table, LocalTable)]
    there = [update for update in direct if update not in here]
    if here:
        push(here, known)
    # A recording that never runs would take the handle of every shard into the branch of each push.
    if there and not (current is not None and current.lookups.never_runs):
        push(there, known, current.next_push_id() if current else None)


def reduce_dense(
    reducer: step.Reducer, optimizer: keras.Optimizer, gradients: Sequence[Gradient], variables: Sequence[Variable]
) -> list[Gradient]:
    """Replaces the gradients of dense variables by their means over the workers.

    Raises:
        UnsupportedError: the optimizer is applied in a branch or a loop, or clips tables together with dense variables.
    """
    current = step.current()
    name = type(optimizer).__name__
    if current is not None and current.is_inside:
        raise UnsupportedError(
            '`optimizer` must be applied outside of branches and loops with dense="allreduce": a worker that does not '
            f'come there would leave the others waiting. Received: {name} in one. Valid: dense="exchange".'
        )
    dense = [number for number, variable in enumerate(variables) if not isinstance(value_of(variable), Table)]
    if optimizer.global_clipnorm and 0 < len(dense) < len(variables):
        raise UnsupportedError(
            f'`global_clipnorm` of {name} must be None with dense="allreduce" and tables: workers have different rows, '
            "and would scale the dense gradients by different norms. Received: "
            f'{optimizer.global_clipnorm}. Valid: `clipnorm`, `clipvalue`, or dense="exchange".'
        )
    reduced = dict(zip(dense, reducer.mean([gradients[number] for number in dense]), strict=True)) if dense else {}
    return [reduced.get(number, gradient) for number, gradient in enumerate(gradients)]


def by_rows(gradient: Gradient, table: Table) -> tf.IndexedSlices | MergedGradient:
    """Returns the gradient of a table by rows: a dense one, which code of the user has made, has all rows."""
    if isinstance(gradient, tf.IndexedSlices | MergedGradient):
        return gradient
    # In a window the rows are numbered by the worker's copy, which has no more rows than the table.
    here = find_stand_in(table)
    rows = here.pulled_rows if isinstance(here, LocalTable) else tf.constant(table.rows, tf.int64)
    return tf.IndexedSlices(
        gradient[:rows], tf.range(rows, dtype=tf.int64), tf.constant(table.shape.as_list(), tf.int64)
    )


@contextlib.contextmanager
def _moving(optimizer: keras.Optimizer, pairs: list[Pair]) -> Iterator[None]:
    """Lets an optimizer update variables: their deltas are pushed, so nothing takes note of how it assigns them."""
    current = step.current()
    # The slots of a declared rule have declared averages. Those of any other optimizer are found by their assignments.
    kept = None if row_optimizers.declared_rule(optimizer) else [value_of(variable) for _, variable in pairs]
    with contextlib.nullcontext() if current is None else current.skipping_assignments(kept):
        yield


def value_of(variable: Variable | tf.Variable) -> tf.Variable:
    """Returns the value that a Keras variable holds; any other variable as it is."""
    return variable._value if isinstance(variable, Variable) else variable


def _group_by_device(pairs: list[Pair]) -> dict[str | None, list[Pair]]:
    """Groups dense variables by the device of their update: None for copies on a worker, else their server."""
    groups: dict[str | None, list[Pair]] = {}
    for gradient, variable in pairs:
        value = variable._value if isinstance(variable, Variable) else variable
        # In a step with copies `handle` is the copy; otherwise it is the variable on its server.
        at_home = isinstance(value, DenseVariable) and value.handle is value.home_handle
        groups.setdefault(value.home_handle.device if at_home else None, []).append((gradient, variable))
    return groups


def _update_fused(optimizer: keras.Optimizer, pairs: list[Pair], learning_rate: tf.Tensor) -> list[Pair]:
    """Updates dense variables on one device in one op; returns the pairs that the op cannot update."""
    bound = row_optimizers.rule_of(optimizer, tf.cast(learning_rate, tf.float32))
    # A rule that is not elementwise (row-wise Adagrad) needs rows, and a dense variable may have any shape.
    if bound is None or not bound.rule.elementwise or not library.available():
        return pairs
    gradients, handles, remaining = [], [], []
    for gradient, variable in pairs:
        places = [_handle_of(v) for v in (variable, *bound.slots_of(variable))] if _is_plain(gradient) else [None]
        if None in places:
            remaining.append((gradient, variable))
        else:
            gradients.append(gradient)
            handles.append(places)
    if handles:
        # `decay_dense` applies weight decay to dense variables, so the decay here is 0.
        apply_dense(bound.rule, handles, gradients, bound.hyper(0.0))
    return remaining


def _is_plain(gradient: Gradient) -> bool:
    """Whether a gradient is a dense float32 tensor, the only kind that the op takes."""
    return (
        tf.is_tensor(gradient)
        and not isinstance(gradient, tf.IndexedSlices | MergedGradient)
        and gradient.dtype == tf.float32
    )


def _handle_of(variable: Variable) -> tf.Tensor | None:
    """Returns the handle that a traced step uses for a float32 variable; None for other variables or without a step."""
    value = variable._value if isinstance(variable, Variable) else variable
    if step.current() is None or not isinstance(value, DenseVariable) or value.dtype != tf.float32:
        return None
    return value.handle


def sum_repeated(
    optimizer: keras.Optimizer, gradients: list[Gradient], variables: Sequence[Variable]
) -> list[Gradient]:
    """Sums the gradients of the repeated ids of each table, if the optimizer clips gradients."""
    if not clips(optimizer):
        return gradients
    # The norm of a row is the norm of its summed gradient. With gradients [1] and [1] of one id it is 2, not sqrt(2).
    # A table that is a dense variable, or that keeps repeats in this step, is clipped as in Keras, which does not sum.
    return [
        sum_duplicates(gradient) if _sums_repeats(_value_of(variable)) else gradient
        for gradient, variable in zip(gradients, variables, strict=True)
    ]


def _sums_repeats(value: object) -> bool:
    return isinstance(value, Table) and not row_optimizers.keeps_repeats(value)


def clips(optimizer: keras.Optimizer) -> bool:
    """Whether an optimizer clips gradients."""
    return bool(optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue)


def _value_of(variable: Variable) -> object:
    return variable._value if isinstance(variable, Variable) else variable


def clip_gradients(
    stock: Callable[..., list[Gradient]], optimizer: keras.Optimizer, gradients: list[Gradient]
) -> list[Gradient]:
    """Clips gradients as Keras does; `sum_repeated` has summed the gradients of repeated ids of tables."""
    if not clips(optimizer):
        return gradients
    if any(isinstance(gradient, MergedGradient) for gradient in gradients):
        return _clip_merged(optimizer, gradients)
    if optimizer.clipnorm:
        return [_clip_by_norm(stock, optimizer, gradient) for gradient in gradients]
    if not optimizer.global_clipnorm:
        return stock(optimizer, gradients)
    # Keras's own clip by the global norm would turn IndexedSlices into a dense tensor, as large as the table.
    return tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)[0]


def _clip_by_norm(stock: Callable[..., list[Gradient]], optimizer: keras.Optimizer, gradient: Gradient) -> Gradient:
    """Clips one gradient by its norm. Keras's own clip would make a dense tensor of IndexedSlices to find the norm."""
    if not isinstance(gradient, tf.IndexedSlices):
        return stock(optimizer, [gradient])[0]
    factor = optimizer.clipnorm / tf.maximum(tf.linalg.norm(gradient.values), optimizer.clipnorm)
    return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)


def _clip_merged(optimizer: keras.Optimizer, gradients: list[Gradient]) -> list[Gradient]:
    """Clips gradients that lie on their servers. Only their norms are transferred."""
    if not optimizer.clipnorm and not optimizer.global_clipnorm:
        limit = optimizer.clipvalue
        return [
            gradient.with_limit(limit)
            if isinstance(gradient, MergedGradient)
            else tf.clip_by_value(gradient, -limit, limit)
            for gradient in gradients
        ]
    norms = [tf.sqrt(_square_sum(gradient)) for gradient in gradients]
    # `clipnorm` limits the norm of each gradient; `global_clipnorm` limits the norm over all of them.
    limit = optimizer.clipnorm or optimizer.global_clipnorm
    if not optimizer.clipnorm:
        norms = [tf.linalg.norm(tf.stack(norms))] * len(norms)
    # The factor is 1 for a norm up to the limit, and limit / norm above it.
    return [_scale(gradient, limit / tf.maximum(norm, limit)) for gradient, norm in zip(gradients, norms, strict=True)]


def _square_sum(gradient: Gradient) -> tf.Tensor:
    if isinstance(gradient, MergedGradient):
        return gradient.square_sum()
    # Reduced where the gradient lies, so that one number is transferred and not the gradient.
    with tf.device(gradient.device):
        return tf.reduce_sum(tf.square(gradient))


def _scale(gradient: Gradient, factor: tf.Tensor) -> Gradient:
    if isinstance(gradient, MergedGradient):
        return gradient.with_factor(factor)
    with tf.device(gradient.device):
        return gradient * factor


def sum_duplicates(gradient: Gradient) -> Gradient:
    """Sums the gradients of repeated ids in IndexedSlices; returns other gradients as they are."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    current = step.current()
    # A gradient that the step knows comes from one lookup, which has each id only once.
    if current is not None and any(known.values is gradient.values for known in current.gradients):
        return gradient
    ids, places = tf.unique(gradient.indices)
    return tf.IndexedSlices(segment_sum_rows([gradient.values], [places], tf.size(ids)), ids, gradient.dense_shape)


def decay_dense(optimizer: keras.Optimizer, variables: Sequence[Variable]) -> None:
    """Applies weight decay to dense variables."""
    # Table rows decay as part of their own updates, so that rows outside the batch are not touched.
    if optimizer.weight_decay is None:
        return
    for variable in variables:
        value = variable._value if isinstance(variable, Variable) else variable
        if not isinstance(value, Table) and optimizer._use_weight_decay(variable):
            rate = tf.cast(optimizer.learning_rate, value.dtype)
            with _moving(optimizer, [(value, value)]):
                value.assign_sub(value * tf.cast(optimizer.weight_decay, value.dtype) * rate)
