"""Makes plans: for all variables of a model at once, or for one variable at a time as the model creates them."""

import dataclasses
import operator
import threading
from collections.abc import Iterable
from typing import get_args

from tfps.checks import check_choice, check_integer, check_list, check_type
from tfps.errors import PlanError
from tfps.placement.balancers import Balancer, as_balancer
from tfps.placement.loads import Loads, compute_demand
from tfps.placement.model import Placement, Plan, check_fits
from tfps.placement.partitioners import AnyPartitioner, Partitioner, as_partitioner
from tfps.placement.routing import Routing, RoutingKind
from tfps.placement.spec import VariableSpec


def plan(
    specs: Iterable[VariableSpec],
    num_servers: int,
    partitioner: AnyPartitioner | None = None,
    balancer: Balancer | None = None,
    routing: RoutingKind = "hash",
) -> Plan:
    """Places all variables of a model, the heaviest first.

    Args:
        specs: the variables, with unique names.
        num_servers: the number of parameter servers, at least 1.
        partitioner: one of `tfps.placement.partitioners` or of TensorFlow; None for `Auto()`.
        balancer: one of `tfps.placement.balancers`; None for `GreedyBytesAndTraffic()`.
        routing: how rows of a split table go to its shards: "div", "mod" or "hash".

    Returns:
        The plan, with the variables in the order of `specs`.

    Raises:
        PlanError: an argument breaks its rule.
    """
    splitter = Splitter(num_servers, as_partitioner(partitioner), routing)
    wanted = check_list("specs", specs, "a list of VariableSpec", error=PlanError)
    for index, spec in enumerate(wanted):
        check_type(f"specs[{index}]", spec, VariableSpec, "a VariableSpec", error=PlanError)
    # First the shards, then the servers: a balancer compares the demands of all shards.
    splits = [splitter.split(spec) for spec in wanted]
    servers = as_balancer(balancer).assign_all([compute_demand(split) for split in splits], num_servers)
    return Plan(num_servers, tuple(Placement.on(s.spec, on, s.routing) for s, on in zip(splits, servers, strict=True)))


@dataclasses.dataclass(frozen=True)
class Splitter:
    """Decides on the shards and the routing of a variable. A balancer then decides on the servers.

    Args:
        num_servers: the number of parameter servers, at least 1.
        partitioner: decides on the number of shards.
        routing: how rows go to the shards: "div", "mod" or "hash".

    Raises:
        PlanError: an argument breaks its rule.
    """

    num_servers: int
    partitioner: Partitioner
    routing: RoutingKind

    def __post_init__(self) -> None:
        """Checks the fields."""
        num_servers = check_integer("num_servers", self.num_servers, at_least=1, error=PlanError)
        object.__setattr__(self, "num_servers", num_servers)
        check_choice("routing", self.routing, get_args(RoutingKind), error=PlanError)

    def split(self, spec: VariableSpec) -> Placement:
        """Returns a placement with the variable's shards, all of them still on server 0."""
        if spec.growing:
            # A hash of the id spreads rows evenly, and how many there will be nobody knows.
            shards = min(self.num_servers, spec.rows)
            return Placement.on(spec, [0] * shards, Routing("key", spec.rows, shards))
        # `operator.index` turns an integer of numpy into Python's, which JSON needs.
        shards = operator.index(self.partitioner(spec, self.num_servers))
        # A table has a routing even if it is whole, so that lookups need no special case.
        routing = Routing(self.routing, spec.rows, shards) if spec.is_table or shards > 1 else None
        return Placement.on(spec, [0] * shards, routing)


class IncrementalPlacer:
    """Places variables one at a time, in the order in which a model creates them. Any thread may call it.

    Args:
        num_servers: the number of parameter servers, at least 1.
        partitioner: one of `tfps.placement.partitioners` or of TensorFlow; None for `Auto()`.
        balancer: one of `tfps.placement.balancers`; None for `GreedyBytesAndTraffic()`.
        plan: a plan to follow. It must have every variable that is placed. None to decide as variables come.
        routing: how rows of a split table go to its shards: "div", "mod" or "hash".

    Raises:
        PlanError: an argument breaks its rule, or the plan is for another number of servers.
    """

    def __init__(
        self,
        num_servers: int,
        partitioner: AnyPartitioner | None = None,
        balancer: Balancer | None = None,
        plan: Plan | None = None,
        routing: RoutingKind = "hash",
    ) -> None:
        """See the class."""
        self._splitter = Splitter(num_servers, as_partitioner(partitioner), routing)
        if plan is not None:
            check_type("plan", plan, Plan, "a Plan, which `Plan.load(path)` reads", error=PlanError)
        if plan is not None and plan.num_servers != num_servers:
            raise PlanError(f"`plan` must be for {num_servers} servers. Received: one for {plan.num_servers}.")
        self._balancer = as_balancer(balancer)
        self._plan = None if plan is None else {placement.spec.name: placement for placement in plan}
        # Guards the loads and the placements below.
        self._lock = threading.Lock()
        self._loads = Loads.empty(num_servers)
        self._placed: dict[str, Placement] = {}
        # The names of those that lie beside another variable.
        self._beside: set[str] = set()

    @property
    def plan(self) -> Plan:
        """The variables placed so far, in order."""
        with self._lock:
            return Plan(self._splitter.num_servers, tuple(self._placed.values()))

    @property
    def plan_without_slots(self) -> Plan:
        """The variables placed so far that do not lie beside another one, in order: a plan that decides on the rest."""
        with self._lock:
            own = [placement for name, placement in self._placed.items() if name not in self._beside]
            return Plan(self._splitter.num_servers, tuple(own))

    @property
    def follows_plan(self) -> bool:
        """Whether this placer follows a plan."""
        return self._plan is not None

    def find_planned(self, name: str) -> Placement | None:
        """Returns the placement of a variable in the plan that this placer follows; None if the plan has none."""
        return (self._plan or {}).get(name)

    def place(self, spec: VariableSpec) -> Placement:
        """Places one more variable.

        Raises:
            PlanError: the name was placed before, or the plan that the placer follows does not fit.
        """
        # The lock spans decision and record: two threads must not choose by the same loads.
        with self._lock:
            return self._record(self._look_up(spec) if self._plan is not None else self._balance(spec))

    def place_like(self, spec: VariableSpec, other: Placement) -> Placement:
        """Places a variable row for row beside another one, such as an optimizer slot beside its table.

        Raises:
            PlanError: the name was placed before, or `spec` and `other` differ in their number of rows.
        """
        if spec.rows != other.spec.rows:
            raise PlanError(
                f"variable {spec.name!r} must have {other.spec.rows} rows to lie beside {other.spec.name!r}. "
                f"Received: {spec.rows}."
            )
        with self._lock:
            self._beside.add(spec.name)
            return self._record(Placement(spec, other.shards, other.routing))

    def _balance(self, spec: VariableSpec) -> Placement:
        split = self._splitter.split(spec)
        servers = self._balancer.assign(compute_demand(split), self._loads)
        return Placement.on(spec, servers, split.routing)

    def _look_up(self, spec: VariableSpec) -> Placement:
        planned = (self._plan or {}).get(spec.name)
        if planned is None:
            raise PlanError(f"`plan` must hold variable {spec.name!r}. Valid names: {sorted(self._plan or {})}.")
        check_fits(planned.spec, spec)
        _check_stored(planned.spec, spec)
        return Placement(spec, planned.shards, planned.routing)

    def _record(self, placement: Placement) -> Placement:
        name = placement.spec.name
        if name in self._placed:
            raise PlanError(f"a variable must be placed once. Received: {name!r} again.")
        self._loads.add(placement.servers, compute_demand(placement))
        self._placed[name] = placement
        return placement


def _check_stored(planned: VariableSpec, spec: VariableSpec) -> None:
    """Checks that a table is kept in the types that the plan counts, if it names some.

    Raises:
        PlanError: a type differs, so the servers would need other memory than planned.
    """
    for argument, field in (("embeddings_dtype", "stored_dtype"), ("slots_dtype", "slots_dtype")):
        valid, received = getattr(planned, field), getattr(spec, field) or spec.dtype
        if valid not in (None, received):
            raise PlanError(
                f"`{argument}` must be {valid!r} for table {spec.name!r}, as in the plan. Received: {received!r}."
            )
