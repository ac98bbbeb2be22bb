"""Where the shards of the tables of one step lie, as the ops need it; the rule itself is placement's."""

import dataclasses
from typing import Protocol

from tfps.errors import ConfigError


class RoutingRule(Protocol):
    """What is asked of `tfps.placement.routing.Routing`, which this package may not import."""

    @property
    def kind(self) -> str:
        """One of div, mod, hash."""

    @property
    def rows(self) -> int:
        """Rows of the whole table."""

    @property
    def shards(self) -> int:
        """Parts it is split into."""

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
        name: what messages call the table.
        routing: which shard and local row hold a global row.
        servers: index of the server of each shard, [routing.shards]; one server may hold several.

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
        tables: at least one; a table that is looked up twice in a step stands here once.
        num_servers: servers there are, at least 1.

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
        """For each server its pieces, (table, shard) each, in the order of its requests."""
        found: list[list[tuple[int, int]]] = [[] for _ in range(self.num_servers)]
        for index, table in enumerate(self.tables):
            for shard, server in enumerate(table.servers):
                found[server].append((index, shard))
        return tuple(tuple(pieces) for pieces in found)
