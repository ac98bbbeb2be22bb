"""Decides which server holds which rows of which variable, before any task starts. No TensorFlow here."""

from tfps.placement.advice import advise
from tfps.placement.balancers import GreedyBytes, GreedyBytesAndTraffic, RoundRobin
from tfps.placement.model import Placement, Plan, ServerLoad, Shard
from tfps.placement.partitioners import Auto, FixedShards, MaxBytes, MinBytes
from tfps.placement.planner import IncrementalPlacer, plan
from tfps.placement.routing import Routing
from tfps.placement.spec import VariableSpec

__all__ = [
    "Auto",
    "FixedShards",
    "GreedyBytes",
    "GreedyBytesAndTraffic",
    "IncrementalPlacer",
    "MaxBytes",
    "MinBytes",
    "Placement",
    "Plan",
    "RoundRobin",
    "Routing",
    "ServerLoad",
    "Shard",
    "VariableSpec",
    "advise",
    "plan",
]
