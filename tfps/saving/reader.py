"""Restores a checkpoint: each server reads the rows that it holds now, whatever servers wrote them.

Threading: one thread restores; servers read in the threads of the strategy's pool.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfps.cluster import devices
from tfps.embedding import row_version
from tfps.embedding.table import Table
from tfps.errors import CheckpointError, CheckpointMismatchError
from tfps.ops.routing_graph import global_of, locate
from tfps.progress import Progress, progress
from tfps.saving import bundles
from tfps.saving.content import METRICS, Content
from tfps.saving.interface import Stored
from tfps.saving.manifest import Manifest, SavedPart, SavedTable, SavedVariable, files_of
from tfps.saving.servers import counting, find_places, run_on_servers
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.types import Shape

_NUMBER = re.compile(r"_\d+")


def match(manifest: Manifest, content: Content, path: str, only: Sequence[str] | None = None) -> dict[str, str]:
    """Finds the saved variable for each variable of a model, by name; else by position.

    Keras numbers layers without a name ("embedding_1"), so the same program may name a variable differently. Metrics
    may differ, and a model without an optimizer has no use for the saved one.

    Args:
        manifest: the manifest.
        content: the variables of the model.
        path: the path of the checkpoint, for messages.
        only: names of layers or variables; None for all variables.

    Returns:
        The name of the saved variable for each name in the model.

    Raises:
        CheckpointMismatchError: the checkpoint is of another model. The message names the first difference.
    """
    saved = {variable.name: variable for variable in manifest.variables}
    groups = {_group_of(name) for name in content.order} - {METRICS}
    here = [name for name in content.order if _group_of(name) in groups]
    there = [name for name in saved if _group_of(name) in groups]
    if (found := _pair(here, there)) is not None:
        pairs = found
    elif only is not None:
        pairs = _pair_layers(manifest, content, only)
    else:
        raise CheckpointMismatchError(_difference(here, there, path))
    if only is not None and not only:
        raise CheckpointMismatchError("`only` must name a layer or variable, or be None for all. Received: [].")
    if only is not None:
        pairs = {name: pairs[name] for name in _chosen(content, only, path) if name in pairs}
        if not pairs:
            raise CheckpointMismatchError(f"{path} has nothing of {', '.join(only)}. It has: {', '.join(there[:20])}.")
    else:
        # Other metrics than those of the checkpoint begin anew.
        here, there = ([name for name in names if _group_of(name) == METRICS] for names in (content.order, saved))
        metrics = _pair(here, there) or {name: name for name in here if name in saved}
        pairs |= {name: other for name, other in metrics.items() if content.shape(name) == saved[other].shape}
    growing = {name for table in manifest.tables if table.routing.takes_any_id for name in table.columns}
    for name, other in pairs.items():
        if (other in growing) != content.grows(name):
            saved_one, this_one = ("grows", "does not") if other in growing else ("does not grow", "does")
            raise CheckpointMismatchError(
                f"{path} is of another model: table {other!r} {saved_one} there, and {name!r} {this_one} here. "
                "Valid: a model with the same layer, and then `DynamicEmbedding.copy_from` or `copy_to`."
            )
        # How many rows were expected does not matter to a table that grows, neither here nor there.
        first = 1 if other in growing and content.grows(name) else 0
        if content.shape(name)[first:] != saved[other].shape[first:]:
            raise CheckpointMismatchError(
                f"{path} is of another model: variable {other!r} has shape {saved[other].shape} there, and "
                f"{content.shape(name)} in this model."
            )
    return pairs


def _pair(here: Sequence[str], there: Sequence[str]) -> dict[str, str] | None:
    """Pairs names by equality, or else by position if only Keras's numbers differ; None if neither fits."""
    if set(here) == set(there):
        return {name: name for name in here}
    if len(here) == len(there) and all(map(_is_renumbered, here, there)):
        return dict(zip(here, there, strict=True))
    return None


def _pair_layers(manifest: Manifest, content: Content, layers: Sequence[str]) -> dict[str, str]:
    """Pairs the variables of some layers in two models whose other layers differ, and the slots of their tables."""
    pairs: dict[str, str] = {}
    names = [variable.name for variable in manifest.variables]
    for layer in layers:
        # Example: "model/sequential/items/embeddings" and "model/items/embeddings" are both "embeddings" of "items".
        there = {tail: name for name in names if (tail := _tail(name, layer)) is not None}
        here = {name: tail for name in content.order if (tail := _tail(name, layer)) is not None}
        pairs |= {name: there[tail] for name, tail in here.items() if tail in there}
    saved_columns = {table.columns[0]: table.columns[1:] for table in manifest.tables}
    for one in content.tables:
        # The last word of a slot's name says which it is: "adam/items_embeddings_momentum".
        slots = {name.rpartition("_")[2]: name for name in saved_columns.get(pairs.get(one.names[0], ""), ())}
        pairs |= {name: slots[kind] for name in one.names[1:] if (kind := name.rpartition("_")[2]) in slots}
    return pairs


def _tail(name: str, layer: str) -> str | None:
    """Returns what follows the name of a layer in the name of a variable; None if it is not of the layer."""
    words = name.split("/")
    return "/".join(words[words.index(layer) + 1 :]) if layer in words else None


def _group_of(name: str) -> str:
    return name.partition("/")[0]


def _chosen(content: Content, only: Sequence[str], path: str) -> list[str]:
    """Returns the variables that are meant by names of variables or layers, tables with their slots."""
    chosen = []
    for wanted in only:
        found = [name for name in content.order if name == wanted or wanted in name.split("/")]
        if not found:
            raise CheckpointMismatchError(
                "`only` must name layers or variables of the model. "
                f"Received: {wanted!r}. Valid: {', '.join(content.order[:20])}."
            )
        chosen += found
    for table in content.tables:
        if table.names[0] in chosen:
            chosen += table.names
    return list(dict.fromkeys(chosen))


def _is_renumbered(name: str, other: str) -> bool:
    """Whether two names differ in the numbers that Keras gives to layers without a name, and in nothing else."""
    return _NUMBER.sub("", name) == _NUMBER.sub("", other)


def _difference(here: Sequence[str], there: Sequence[str], path: str) -> str:
    missing = [name for name in here if name not in there]
    extra = [name for name in there if name not in here]
    return (
        f"{path} is of another model: it has {len(there)} variables, and this model {len(here)}. "
        f"Not in the checkpoint: {', '.join(missing[:5]) or 'none'}. "
        f"Not in the model: {', '.join(extra[:5]) or 'none'}."
    )


def restore(
    chain: Sequence[Stored],
    content: Content,
    pairs: Mapping[str, str],
    strategy: ParameterServerStrategy | None,
    servers: Collection[int] | None = None,
) -> None:
    """Gives variables the values of a checkpoint.

    Args:
        chain: the checkpoint, and before it those that it is a delta of, the complete one first.
        content: the variables.
        pairs: the saved variable of each variable to restore, as `match` returns it.
        strategy: the strategy that has the tables; None without tables.
        servers: the servers whose rows are restored; None for all.

    Raises:
        CheckpointError: a file is broken. The model then has values of before and values of the checkpoint.
        ClusterError: a server died, or did not answer in time.
    """
    # Cheap, and before anything is changed: most broken checkpoints are truncated.
    for stored in chain:
        stored.check_sizes()
    # Whoever follows what changes in a table must not go by `touched_since` alone.
    for one in content.tables:
        for table in one.tables:
            table.count_assignment()
    # A name in the model for each saved one; two saved variables never go to one.
    names = {saved: name for name, saved in pairs.items()}
    # Every checkpoint of a chain has all dense variables, so the last one alone counts.
    _restore_dense(chain[-1], content, names)
    for one in content.tables:
        if one.names[0] in names.values():
            one.tables[0].begin_restore(servers)
    # Rows of the complete one first; each delta then overwrites the rows that it has.
    with progress(f"restoring {chain[-1].path}", 0, "parts") as bar:
        for stored in chain:
            wanted = [_wanted(table, stored.manifest, content, names) for table in stored.manifest.tables]
            if strategy is not None and any(one.tables for one in wanted):
                _restore_tables(stored, wanted, strategy, servers, bar)
    of_chain = [[_wanted(table, one.manifest, content, names) for table in one.manifest.tables] for one in chain]
    # The same tables in each, so they can be gone through side by side.
    for same in zip(*of_chain, strict=True):
        if same[0].dense:
            _restore_whole(list(zip(chain, same, strict=True)), content)
    # A closure that began meanwhile may have kept rows of before.
    row_version.change()


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """What is wanted of a saved table.

    Args:
        saved: the saved table.
        dtypes: the saved dtype of each column.
        shapes: the shape of each column.
        tables: the tables of the model by column.
        dense: the names of dense variables of the model by column: in one process a table is one.
    """

    saved: SavedTable
    dtypes: Sequence[tf.DType]
    shapes: Sequence[Shape]
    tables: Mapping[int, Table]
    dense: Mapping[int, str]


def _wanted(saved: SavedTable, manifest: Manifest, content: Content, names: Mapping[str, str]) -> _Wanted:
    """Finds what the model wants of a saved table."""
    variables = [manifest.variable(name) for name in saved.columns]
    here = {column: names[name] for column, name in enumerate(saved.columns) if name in names}
    return _Wanted(
        saved,
        [tf.as_dtype(variable.dtype) for variable in variables],
        [variable.shape for variable in variables],
        {column: content.table(name) for column, name in here.items() if name not in content.dense},
        {column: name for column, name in here.items() if name in content.dense},
    )


def _restore_dense(stored: Stored, content: Content, names: Mapping[str, str]) -> None:
    """Restores what was a dense variable."""
    # One read for each bundle, so that at most one group of variables is in memory.
    by_bundle: dict[str, list[SavedVariable]] = {}
    for variable in stored.manifest.variables:
        if variable.bundle is not None and variable.name in names:
            by_bundle.setdefault(variable.bundle, []).append(variable)
    for bundle, variables in by_bundle.items():
        dtypes = [tf.as_dtype(variable.dtype) for variable in variables]
        shapes = [variable.shape for variable in variables]
        # Bundles of dense variables have the names of the variables, so that TensorFlow alone can read them.
        with _fetched(stored, bundle) as prefix:
            values = _read(stored, devices.CHIEF, bundle, prefix, [one.name for one in variables], dtypes, shapes)
        for variable, value in zip(variables, values, strict=True):
            name = names[variable.name]
            if name in content.dense:
                content.dense[name].assign(value)
            else:
                # A table that was small, or that one process had, and is split over servers now.
                content.table(name).assign(value.numpy())


def _restore_tables(
    stored: Stored,
    wanted: Sequence[_Wanted],
    strategy: ParameterServerStrategy,
    servers: Collection[int] | None,
    bar: Progress,
) -> None:
    """Restores tables, each server the rows that it holds."""
    holders = {server for one in wanted for table in one.tables.values() for server in table.servers}
    chosen = sorted(holders if servers is None else holders.intersection(servers))
    probe = stored.probe()
    places = dict.fromkeys(chosen, devices.CHIEF) if probe is None else find_places(strategy, chosen, *probe)
    # With another split than that of the checkpoint several servers read one part.
    units = {server: list(_units(stored, wanted, server, places[server])) for server in chosen}
    bar.expect(sum(map(len, units.values())))
    counted = {server: counting(own, bar) for server, own in units.items()}
    run_on_servers(strategy, counted, "a server to read some rows of a checkpoint")


def _units(stored: Stored, wanted: Sequence[_Wanted], server: int, place: str) -> Iterator[Callable[[], None]]:
    """Yields the units of work of a server: one part of one table each."""
    for one in wanted:
        for part in one.saved.parts:
            # The tables of the columns are split alike, unless one of them was made for another optimizer.
            targets = {
                column: (table, shards)
                for column, table in one.tables.items()
                if (shards := _shards_for(table, one.saved, part, server))
            }
            if targets:
                yield functools.partial(_restore_part, stored, one, part, targets, server, place)


def _shards_for(table: Table, saved: SavedTable, part: SavedPart, server: int) -> list[int]:
    """Returns the shards of a server that get rows of a part."""
    # With another split, any shard of the server may have rows of the part.
    own = [shard for shard, owner in enumerate(table.servers) if owner == server]
    return [shard for shard in own if shard == part.shard] if _is_alike(table, saved) else own


def _is_alike(table: Table, saved: SavedTable) -> bool:
    """Whether a table is split as it was saved, so that a part is rows of one shard."""
    return table.routing == saved.routing


def _restore_part(
    stored: Stored,
    one: _Wanted,
    part: SavedPart,
    targets: Mapping[int, tuple[Table, list[int]]],
    server: int,
    place: str,
) -> None:
    """Reads a part and gives a server's tables their rows of it."""
    names = [str(column) for column in targets] + [bundles.IDS] * part.has_ids
    dtypes = [one.dtypes[column] for column in targets] + [tf.int64] * part.has_ids
    shapes: list[Shape] = [(part.rows, one.shapes[column][1]) for column in targets]
    with _fetched(stored, part.bundle) as prefix:
        values = _read(stored, place, part.bundle, prefix, names, dtypes, [*shapes, *[(part.rows,)] * part.has_ids])
    # On the server, although the chief may have read the part: numbers are made where they are used.
    with tf.device(devices.server(server)):
        local = tf.range(part.first, part.first + part.rows, dtype=tf.int64)
        ids = values.pop() if part.has_ids else None
        for (table, shards), rows in zip(targets.values(), values, strict=True):
            rows = tf.cast(rows, table.dtype)
            if ids is None and _is_alike(table, one.saved):
                table.stores[part.shard].assign(local, rows)
                continue
            known = global_of(one.saved.routing, part.shard, local) if ids is None else ids
            # Example: a part of shard 0 of 2 has the ids 0, 2, 4, 6. With 4 shards, server 0 keeps 0 and 4.
            shard_of, local_of = locate(table.routing, known)
            for shard in shards:
                chosen = tf.reshape(tf.where(shard_of == shard), [-1])
                table.stores[shard].assign(tf.gather(local_of, chosen), tf.gather(rows, chosen))


def _restore_whole(chain: Sequence[tuple[Stored, _Wanted]], content: Content) -> None:
    """Restores a table that is a dense variable here, which fits the memory of this process."""
    first = chain[0][1]
    # Pages that nobody writes take no memory.
    whole = {column: np.zeros(first.shapes[column], first.dtypes[column].as_numpy_dtype) for column in first.dense}
    for stored, one in chain:
        for part in one.saved.parts:
            names = [str(column) for column in whole] + [bundles.IDS] * part.has_ids
            dtypes = [one.dtypes[column] for column in whole] + [tf.int64] * part.has_ids
            shapes: list[Shape] = [(part.rows, one.shapes[column][1]) for column in whole]
            shapes += [(part.rows,)] * part.has_ids
            with _fetched(stored, part.bundle) as prefix:
                values = _read(stored, devices.CHIEF, part.bundle, prefix, names, dtypes, shapes)
            local = np.arange(part.first, part.first + part.rows)
            ids = values.pop().numpy() if part.has_ids else one.saved.routing.global_of(part.shard, local)
            for array, rows in zip(whole.values(), values, strict=True):
                array[ids] = rows.numpy()
    for column, array in whole.items():
        content.dense[first.dense[column]].assign(array)


@contextlib.contextmanager
def _fetched(stored: Stored, bundle: str) -> Iterator[str]:
    """Provides the path of a bundle, which may come from an object store."""
    prefix = stored.fetch(bundle)
    try:
        yield prefix
    finally:
        stored.release(prefix)


def _read(
    stored: Stored,
    device: str,
    bundle: str,
    prefix: str,
    names: Sequence[str],
    dtypes: Sequence[tf.DType],
    shapes: Sequence[Shape],
) -> list[tf.Tensor]:
    """Checks a bundle and reads tensors of it.

    Raises:
        CheckpointError: a file is not what was written.
    """
    bundles.check(device, prefix, [stored.manifest.files[name] for name in files_of(bundle)])
    values = bundles.read(device, prefix, names, dtypes)
    for name, value, shape in zip(names, values, shapes, strict=True):
        if tuple(value.shape) != tuple(shape):
            raise CheckpointError(f"{prefix} is not what was written: tensor {name!r} has shape {tuple(value.shape)}.")
    return values
