"""One line of advice from a timeline: the stage that takes most of a worker's step, and what to change."""

from typing import NamedTuple

from tfps import jobs
from tfps.diagnosis.stage_names import COMPUTE, EXCHANGE, IDLE, IDS, INPUT, OTHER, PUSH, ROWS, TURN
from tfps.diagnosis.table import busy_share
from tfps.diagnosis.timeline import Timeline

_UNEVEN = 1.3
"""A server that does this many times the mean is named."""
_FEWER_TRIPS = "larger batches, or more steps between exchanges (dense_exchange_every, compile(steps_per_execution=))"

WIRE = "messages"
SERVERS = "servers"
_WAITS = (ROWS, EXCHANGE, TURN)

_ADVICE = {
    INPUT: "a worker waits for its batch. Let the dataset read ahead (prefetch), map in parallel "
    "(num_parallel_calls=tf.data.AUTOTUNE), cache, and batch before it maps.",
    IDS: "a worker prepares ids. Compute them in the dataset, or look up fewer ids in a step.",
    COMPUTE: "the model itself. Add workers, or cores for each.",
    PUSH: "a worker packs gradients of rows. Look up fewer ids in a step, or make rows narrower.",
    OTHER: "what is in no stage.",
    IDLE: "a worker has nothing to run. The chief is late with closures or busy with callbacks, lets one worker train "
    f"while a model is young, or waits for other workers in synchronous training. Else: {_FEWER_TRIPS}.",
}


_FED = (
    "a worker has nothing to run: the chief reads the batches. Give it a dataset that workers can read (see the log)."
)


class Verdict(NamedTuple):
    """What takes most of a step.

    Args:
        limit: a stage of a worker's own work, "messages" or "servers".
        share: its part of a worker's step, 0 to 1.
        advice: a line for the log.
    """

    limit: str
    share: float
    advice: str


def judge(timeline: Timeline) -> Verdict | None:
    """Returns what takes most of the step of an average worker; None if no worker trained a step.

    Waits for servers are one candidate or two, whatever their stage: the part in which the server was at work, and the
    part in which messages were on their way.
    """
    workers = timeline.of_job(jobs.WORKER)
    if not workers:
        return None
    ms = timeline.mean_ms(jobs.WORKER)
    step = sum(ms.values())
    on_servers = sum(sum(task.waited_on_servers_ms.values()) for task in workers) / len(workers)
    waited = sum(sum(task.waited_for_ms.values()) for task in workers) / len(workers)
    found = {stage: time for stage, time in ms.items() if stage in _ADVICE} | {
        SERVERS: on_servers,
        WIRE: waited - on_servers,
    }
    limit = max(found, key=lambda one: found[one])
    share = found[limit] / step
    head = (
        f"{found[limit]:.2f} of the {step:.2f} ms of a worker's step ({share:.0%}) go to {_NOUNS.get(limit, limit)}: "
    )
    if limit == IDLE and timeline.fed:
        return Verdict(limit, share, head + _FED)
    if limit in (SERVERS, WIRE):
        return Verdict(limit, share, head + _advise_on_servers(limit, timeline))
    return Verdict(limit, share, head + _ADVICE[limit])


_NOUNS = {SERVERS: "waiting for servers at work", WIRE: "waiting for messages", COMPUTE: "compute", IDLE: "idling"}


def _advise_on_servers(limit: str, timeline: Timeline) -> str:
    if limit == WIRE:
        return f"servers are not at work meanwhile. Make trips fewer: {_FEWER_TRIPS}; or tasks closer to each other."
    servers = timeline.of_job(jobs.PS)
    busiest = max(servers, key=busy_share)
    mean = sum(map(busy_share, servers)) / len(servers)
    stages = {stage: ms for stage, ms in busiest.ms.items() if stage != IDLE}
    most = max(stages, key=lambda stage: stages[stage])
    text = f"{busiest.name} is at work {busy_share(busiest):.0%} of the time, most of it with {most}. "
    if busy_share(busiest) > _UNEVEN * mean:
        return text + "Others do less: split the tables on it, or plan by the traffic they have (rows_per_step)."
    return text + "Add servers, or cores for each."
