"""The servers of the shards of a step's tables, in the form that the ops need. `placement` owns the routing rule."""

import dataclasses
from typing import Protocol

from tfps.errors import ConfigError


class RoutingRule(Protocol):
    """The part of `tfps.placement.routing.Routing` that the ops use. This package must not import `placement`."""

    @property
    def kind(self) -> str:
        """The kind of the rule: "div", "mod", "hash" or "key"."""

    @property
    def rows(self) -> int:
        """The number of rows of the whole table."""

    @property
    def shards(self) -> int:
        """The number of shards."""

    @property
    def multiplier(self) -> int:
        """Factor of the rotation."""

    @property
    def offset(self) -> int:
        """Addend of the rotation."""


@dataclasses.dataclass(frozen=True)
class TableRoute:
    """The routing rule and the servers of one table.

    Args:
        name: the name of the table in messages.
        routing: the rule that gives the shard and local row of an id.
        servers: the index of the server of each shard, [routing.shards]; a server may hold several shards.

    Raises:
        ConfigError: `servers` does not name one server for each shard.
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

    A *piece* is a shard of a table as part of a server's request.

    Example: tables a and b have two shards each, on servers (0, 1), and table c has one shard, on server (1,). Server 0
    has the pieces `((a, 0), (b, 0))` and server 1 has `((a, 1), (b, 1), (c, 0))`, where letters stand for indices.

    Args:
        tables: the tables, at least one. A table that a step looks up twice is listed once.
        num_servers: the number of servers, at least 1.

    Raises:
        ConfigError: there is no table, or a table is on a server that does not exist.
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
        """The pieces (table, shard) of each server, in the order of its requests."""
        # The C++ op derives the same order, table by table and shard by shard.
        by_server: list[list[tuple[int, int]]] = [[] for _ in range(self.num_servers)]
        for index, table in enumerate(self.tables):
            for shard, server in enumerate(table.servers):
                by_server[server].append((index, shard))
        return tuple(tuple(pieces) for pieces in by_server)
