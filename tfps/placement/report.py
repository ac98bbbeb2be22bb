"""A plan in words."""

from tfps.placement.model import Plan


def plan_table(plan: Plan) -> str:
    """The plan as a text table: a line a variable, then a line a server."""
    lines = [f"{p.spec.name}  {p.spec.shape}  {p.spec.nbytes} bytes  servers {list(p.servers)}" for p in plan]
    return "\n".join(lines + [str(load) for load in plan.loads()])
