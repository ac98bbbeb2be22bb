"""A plan as a value: it says which server holds which rows of which variable. It can be printed, saved and compared."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from tfps.checks import check_integer, check_list, check_type, show_value
from tfps.errors import PlanError
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec
from tfps.placement.traffic import table_traffic
from tfps.types import is_integer

__all__ = ["Placement", "Plan", "ServerLoad", "Shard", "VariableSpec"]

_FORMAT = 1
"""Version of the JSON text. A reader refuses any other version and names it."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One part of a variable.

    Args:
        server: index of the parameter server that holds it.
        index: position among the shards of the variable.
        rows: the number of rows in the shard.
    """

    server: int
    index: int
    rows: int

    def __post_init__(self) -> None:
        """Checks the fields."""
        # `check_integer` turns integers of numpy into Python's, which JSON needs.
        for name in ("server", "index", "rows"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), at_least=0, error=PlanError))


@dataclasses.dataclass(frozen=True)
class Placement:
    """The servers that hold one variable, and how its rows are split over them.

    Args:
        spec: the variable.
        shards: the shards of the variable, in order of index.
        routing: the rule from a row to (shard, local row). None only for a dense variable that is not split.

    Raises:
        PlanError: the shards do not hold every row exactly once.
    """

    spec: VariableSpec
    shards: tuple[Shard, ...]
    routing: Routing | None = None

    def __post_init__(self) -> None:
        """Checks the shards against the routing and the shape."""
        check_type("spec", self.spec, VariableSpec, "a VariableSpec", error=PlanError)
        for index, shard in enumerate(check_list("shards", self.shards, "a list of Shard", error=PlanError)):
            check_type(f"shards[{index}]", shard, Shard, "a Shard", error=PlanError)
        if self.routing is not None:
            check_type("routing", self.routing, Routing, "a Routing, or None", error=PlanError)
        # The routing determines the sizes of the shards, so two lists that agree hold every row exactly once.
        rows = [shard.rows for shard in self.shards]
        if [shard.index for shard in self.shards] != list(range(len(rows))) or rows != self._expected_rows():
            raise PlanError(
                f"`shards` of variable {self.spec.name!r} must hold every row once, in order of index: rows "
                f"{self._expected_rows()}. Received: {list(self.shards)}."
            )

    @property
    def table_routing(self) -> Routing:
        """The routing of a table, which a plan need not give for one that is not split."""
        return self.routing or Routing("div", self.spec.rows, 1)

    @property
    def servers(self) -> tuple[int, ...]:
        """The server of each shard, [shards]."""
        return tuple(shard.server for shard in self.shards)

    @property
    def rows_by_shard(self) -> tuple[int, ...]:
        """The number of rows of each shard, [shards]."""
        return tuple(shard.rows for shard in self.shards)

    @classmethod
    def on(cls, spec: VariableSpec, servers: Iterable[int], routing: Routing | None) -> "Placement":
        """Makes the placement of `spec` with shard i on the i-th of `servers`."""
        rows = _rows_of(spec, routing)
        servers = list(servers)
        if len(servers) != len(rows):
            raise PlanError(f"`servers` of variable {spec.name!r} must name {len(rows)} servers. Received: {servers}.")
        return cls(spec, tuple(Shard(server, i, rows[i]) for i, server in enumerate(servers)), routing)

    def _expected_rows(self) -> list[int]:
        return _rows_of(self.spec, self.routing)


def _rows_of(spec: VariableSpec, routing: Routing | None) -> list[int]:
    """Returns the number of rows that each shard must hold."""
    if routing is None:
        return [spec.rows]
    if routing.rows != spec.rows:
        raise PlanError(f"`routing` of variable {spec.name!r} must route {spec.rows} rows. Received: {routing.rows}.")
    return [routing.shard_rows(index) for index in range(routing.shards)]


@dataclasses.dataclass(frozen=True)
class ServerLoad:
    """The load of one server. Fields named `*_per_step` are for one step of one worker.

    Args:
        server: the index of the server.
        nbytes: bytes of its variables, without slots.
        bytes_with_slots: bytes of its variables and optimizer slots.
        lookups_per_step: rows looked up, with repeats.
        rows_per_step: rows looked up after deduplication. These rows cross the network.
        row_bytes_per_step: bytes of those rows, one way.
        dense_bytes_per_step: bytes of the dense variables on the server, one way.
    """

    server: int
    nbytes: int = 0
    bytes_with_slots: int = 0
    lookups_per_step: float = 0.0
    rows_per_step: float = 0.0
    row_bytes_per_step: float = 0.0
    dense_bytes_per_step: int = 0

    def __add__(self, other: "ServerLoad") -> "ServerLoad":
        """Adds two loads of one server."""
        # Every field but the first, which is the index of the server.
        names = [field.name for field in dataclasses.fields(self)[1:]]
        return ServerLoad(self.server, *(getattr(self, name) + getattr(other, name) for name in names))


def placement_loads(placement: Placement) -> Iterator[ServerLoad]:
    """Yields the load that each shard of one placement puts on its server."""
    spec = placement.spec
    for index, shard in enumerate(placement.shards):
        load = ServerLoad(shard.server, shard.rows * spec.row_bytes, spec.bytes_of_rows(shard.rows))
        if spec.is_table and placement.routing:
            traffic = table_traffic(spec, placement.routing)
            lookups, rows = float(traffic.lookups[index]), float(traffic.unique[index])
            yield load + ServerLoad(shard.server, 0, 0, lookups, rows, rows * spec.row_bytes)
        else:
            # A step needs all of a dense variable, so its bytes per step are its size.
            yield dataclasses.replace(load, dense_bytes_per_step=load.nbytes)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The placement of every variable of a model on servers 0 to num_servers - 1.

    Args:
        num_servers: the number of parameter servers, at least 1.
        placements: one placement for each variable, in order of creation.

    Raises:
        PlanError: a variable appears twice, or a shard is on a server that does not exist.
    """

    num_servers: int
    placements: tuple[Placement, ...] = ()

    def __post_init__(self) -> None:
        """Checks names and servers; a list given as `placements` becomes a tuple."""
        rule = "a list of Placement"
        placements = check_list("placements", self.placements, rule, error=PlanError)
        for index, placement in enumerate(placements):
            check_type(f"placements[{index}]", placement, Placement, "a Placement", error=PlanError)
        object.__setattr__(self, "placements", tuple(placements))
        num_servers = check_integer("num_servers", self.num_servers, at_least=1, error=PlanError)
        object.__setattr__(self, "num_servers", num_servers)
        seen: set[str] = set()
        for placement in self.placements:
            name = placement.spec.name
            if name in seen:
                raise PlanError(f"`placements` must hold every variable once. Received: {show_value(name)} twice.")
            seen.add(name)
            if not all(is_integer(server) and 0 <= server < self.num_servers for server in placement.servers):
                valid = f"servers 0 to {self.num_servers - 1}"
                raise PlanError(
                    f"`shards` of variable {show_value(name)} must be on {valid}. Received: {placement.servers}."
                )

    def __iter__(self) -> Iterator[Placement]:
        """The placements in order."""
        return iter(self.placements)

    def find(self, name: str) -> Placement:
        """Returns the placement of one variable.

        Raises:
            PlanError: the plan has no variable of that name.
        """
        for placement in self.placements:
            if placement.spec.name == name:
                return placement
        known = [placement.spec.name for placement in self.placements]
        raise PlanError(f"`name` must be a variable of the plan. Received: {name!r}. Valid: {known}.")

    def check(self, specs: Iterable[VariableSpec]) -> None:
        """Checks that the plan holds exactly these variables, each once and with its shape and type.

        Raises:
            PlanError: a variable is missing, is not one of `specs`, or has another shape or type.
        """
        # Names are compared before shapes, so that a renamed variable is not reported as one of a wrong shape.
        wanted = {spec.name: spec for spec in specs}
        planned = {placement.spec.name: placement.spec for placement in self.placements}
        if missing := sorted(wanted.keys() - planned.keys()):
            raise PlanError(f"the plan must hold every variable of the model. Missing: {missing}.")
        if unknown := sorted(planned.keys() - wanted.keys()):
            raise PlanError(f"the plan must hold no other variable. Not of the model: {unknown}.")
        for name, spec in wanted.items():
            check_fits(planned[name], spec)

    def loads(self) -> tuple[ServerLoad, ...]:
        """Returns the load of each server, [num_servers]."""
        totals = [ServerLoad(server) for server in range(self.num_servers)]
        for placement in self.placements:
            for load in placement_loads(placement):
                totals[load.server] += load
        return tuple(totals)

    def table(self) -> str:
        """Returns the plan as a text table: a line for each variable, then a line for each server."""
        # Imported here, because the report imports this module.
        from tfps.placement.report import plan_table

        return plan_table(self)

    def to_json(self) -> str:
        """Returns the plan as JSON text; `from_json` gives an equal plan back."""
        variables = [_placement_to_json(placement) for placement in self.placements]
        return json.dumps({"format": _FORMAT, "num_servers": self.num_servers, "variables": variables}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Reads the text that `to_json` wrote.

        Raises:
            PlanError: the text is not such a plan, or the plan breaks a rule.
        """
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise PlanError(f"`format` of a saved plan must be {_FORMAT}. Received: {show_value(data['format'])}.")
            return cls(data["num_servers"], tuple(_placement_from_json(item) for item in data["variables"]))
        except PlanError:
            raise
        # JSON of another kind fails in any of these ways: a list has no keys, a string no fields. A text that is broken
        # on purpose may nest too deep, or have numbers that Python does not read.
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            why = str(error)[:200]
            raise PlanError(f"`text` must be a plan that `save` wrote. Received: {text[:80]!r} ({why}).") from error

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the plan to a JSON file."""
        pathlib.Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Plan":
        """Reads a plan from a JSON file.

        Raises:
            PlanError: the file cannot be read or is not a plan.
        """
        try:
            return cls.from_json(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"`path` must be a readable plan. Received: {str(path)!r} ({error}).") from error


def check_fits(planned: VariableSpec, spec: VariableSpec) -> None:
    """Checks that a planned variable has the shape, type and kind of the model's variable.

    Raises:
        PlanError: one of them differs.
    """
    for field in ("shape", "dtype", "is_table", "growing"):
        valid, received = getattr(planned, field), getattr(spec, field)
        if valid != received:
            raise PlanError(
                f"`{field}` of variable {spec.name!r} must be as planned. Received: {received!r}. Valid: {valid!r}."
            )


# A shard's size follows from the routing, so the JSON text has only the servers of the shards.
def _placement_to_json(placement: Placement) -> dict[str, Any]:
    routing = dataclasses.asdict(placement.routing) if placement.routing else None
    spec = dataclasses.asdict(placement.spec)
    # Left out where they say nothing, so that plans without them are read by earlier versions too.
    for field in ("growing", "stored_dtype", "slots_dtype"):
        if not spec[field]:
            del spec[field]
    return {**spec, "servers": list(placement.servers), "routing": routing}


def _placement_from_json(data: dict[str, Any]) -> Placement:
    fields = dict(data)
    servers, routing = fields.pop("servers"), fields.pop("routing")
    return Placement.on(VariableSpec(**fields), servers, Routing(**routing) if routing else None)
