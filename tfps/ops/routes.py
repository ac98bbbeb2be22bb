"""The servers of the shards of a step's tables, as the ops need them. The routing rule itself belongs to placement."""

import dataclasses
from typing import Protocol

from tfps.errors import ConfigError


class RoutingRule(Protocol):
    """The part of `tfps.placement.routing.Routing` that the ops use; this package may not import that one."""

    @property
    def kind(self) -> str:
        """One of div, mod, hash."""

    @property
    def rows(self) -> int:
        """Rows of the whole table."""

    @property
    def shards(self) -> int:
        """Number of shards."""

    @property
    def multiplier(self) -> int:
        """Factor of the rotation."""

    @property
    def offset(self) -> int:
        """Addend of the rotation."""


@dataclasses.dataclass(frozen=True)
class TableRoute:
    """One table: its name, for messages, its routing rule, and the server of each of its shards.

    Args:
        name: name of the table in messages.
        routing: rule that gives the shard and local row of an id.
        servers: index of the server of each shard, [routing.shards]; a server may hold several shards.

    Raises:
        ConfigError: `servers` does not name one server a shard.
    """

    name: str
    routing: RoutingRule
    servers: tuple[int, ...]

    def __post_init__(self) -> None:
        """Checks the fields."""
        if len(self.servers) != self.routing.shards or min(self.servers) < 0:
            raise ConfigError(
                f"`servers` must name one server, at least 0, for each of the {self.routing.shards} shards of "
                f"table {self.name!r}. Received: {self.servers}."
            )


@dataclasses.dataclass(frozen=True)
class RouteMap:
    """The tables of one width that a step looks up together, on all their servers.

    Example: tables a and b of two shards each on servers (0, 1), and c of one shard on server (1,), give the pieces
    `((a, 0), (b, 0))` on server 0 and `((a, 1), (b, 1), (c, 0))` on server 1, tables being written by their index.

    Args:
        tables: at least one table; one that a step looks up twice is listed once.
        num_servers: number of servers, at least 1.

    Raises:
        ConfigError: there is no table, or a table lies on a server that does not exist.
    """

    tables: tuple[TableRoute, ...]
    num_servers: int

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not self.tables:
            raise ConfigError("`tables` must hold at least one table. Received: none.")
        for table in self.tables:
            if max(table.servers) >= self.num_servers:
                raise ConfigError(
                    f"`servers` of table {table.name!r} must be below num_servers, {self.num_servers}. "
                    f"Received: {table.servers}."
                )

    @property
    def pieces(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The pieces of each server, (table, shard) each, in the order of its requests."""
        found: list[list[tuple[int, int]]] = [[] for _ in range(self.num_servers)]
        for index, table in enumerate(self.tables):
            for shard, server in enumerate(table.servers):
                found[server].append((index, shard))
        return tuple(tuple(pieces) for pieces in found)
