"""The stages of a timeline, and the stage of each operation.

Every moment of a worker and of a server belongs to one stage, so the stages of a task add up to its time.
"""

import re
from typing import Final

from tfps import jobs, stages

INPUT: Final = "input"
IDS: Final = "ids"
ROWS: Final = "rows"
COMPUTE: Final = "compute"
PUSH: Final = "push"
EXCHANGE: Final = "exchange"
TURN: Final = "turn"
OTHER: Final = "other"
IDLE: Final = "idle"

STAGES: Final = (INPUT, IDS, ROWS, COMPUTE, PUSH, EXCHANGE, TURN, OTHER, IDLE)
"""All stages, in the order of a step."""

MEANINGS: Final[dict[str, dict[str, str]]] = {
    jobs.WORKER: {
        INPUT: "reads its batch, or waits for it",
        IDS: "computes ids, makes them unique and sorts them by server",
        ROWS: "waits for the rows of its step",
        COMPUTE: "forward and backward pass, and the optimizer's work on the worker",
        PUSH: "packs and sends gradients of rows",
        EXCHANGE: "pulls and pushes dense variables, and sends the result of a closure",
        TURN: "waits until servers have begun or ended a turn of the loop over steps",
        OTHER: "anything else",
        IDLE: "has no closure to run: waits for the chief, or is not used",
    },
    jobs.PS: {
        ROWS: "gathers and sends rows",
        PUSH: "applies gradients to rows",
        EXCHANGE: "sends and adds up dense variables",
        TURN: "begins and ends turns of the loops of workers",
        OTHER: "anything else",
        IDLE: "waits for messages",
    },
}
"""What a task does in each stage, by job."""

_BY_SCOPE = {
    stages.INPUT: INPUT,
    stages.IDS: IDS,
    stages.ROWS: ROWS,
    stages.PUSH: PUSH,
    stages.EXCHANGE: EXCHANGE,
}
# TensorFlow numbers a scope that is entered again: tfps_push, tfps_push_1, ...
_SCOPE = re.compile(rf"(?:^|/)({'|'.join(_BY_SCOPE)})(?:_\d+)?(?=/|$)")
# The operations of a loop that are not those of its body.
_LOOP = re.compile(
    r"(?:^|/)while(?:_\d+)?/(?:cond|LoopCond|LoopControlInputs|loop_body_control|exit)\b|GroupCrossDeviceControlEdges"
)
BATCH_READERS: Final = frozenset({"IteratorGetNextSync", "IteratorGetNext", "IteratorGetNextAsOptional"})
"""Operations that read a batch: each blocks its thread until there is one."""


def find_stage(name: str, op: str) -> str | None:
    """Returns the stage of an operation; None if it is in none of our scopes.

    Args:
        name: the name of the operation in its graph.
        op: its type, such as "MatMul".
    """
    if op in BATCH_READERS:
        return INPUT
    # The innermost scope: rows that a push looks up again are rows.
    found = _SCOPE.findall(name)
    if found:
        return _BY_SCOPE[found[-1]]
    return TURN if _LOOP.search(name) else None


def default_stage(job: str) -> str:
    """Returns the stage of operations of a closure that are in no scope: on a worker these are those of the model."""
    return COMPUTE if job == jobs.WORKER else OTHER
