"""What a task did while it was recorded: operations, waits, calls and messages. Times are in ns since 1970."""

import dataclasses
from typing import NamedTuple

from tfps.diagnosis.stage_names import BATCH_READERS


class Span(NamedTuple):
    """An operation that ran, or a wait of one.

    Args:
        begin: when it began.
        end: when it ended.
        stage: its stage, see `stage_names`.
        name: the name of the operation in its graph.
        op: its type.
        line: the number of the thread that ran it, among the lines of the recording; -1 for a wait.
    """

    begin: int
    end: int
    stage: str
    name: str
    op: str
    line: int = -1


class Message(NamedTuple):
    """One end of a message between tasks.

    Args:
        at: when it was sent, or had arrived.
        edge: the name of the tensor, which is the same at both ends.
        step: the number of the call of a function that it belongs to, which is the same on all tasks; 0 if unknown.
        peer: the task that it is for, such as "worker 1"; "" if unknown.
    """

    at: int
    edge: str
    step: int
    peer: str = ""


@dataclasses.dataclass
class TaskEvents:
    """The events of one task.

    Attributes:
        job: "ps" or "worker".
        index: its number in the job.
        host: the machine it runs on.
        begin: the begin of the recording.
        end: its end.
        lines: the names of the recorded threads.
        spans: the operations of closures that ran, by begin.
        waits: the time that operations of closures waited, by end: for messages, or for a batch.
        background: operations of no closure, such as those of `Dataset.map`, by begin.
        calls: the begin and end of each closure that ran at least in part.
        sent: the messages to other tasks, by time.
        arrived: the messages from other tasks, by time.
    """

    job: str
    index: int
    host: str
    begin: int
    end: int
    lines: list[str] = dataclasses.field(default_factory=list)
    spans: list[Span] = dataclasses.field(default_factory=list)
    waits: list[Span] = dataclasses.field(default_factory=list)
    background: list[Span] = dataclasses.field(default_factory=list)
    calls: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    sent: list[Message] = dataclasses.field(default_factory=list)
    arrived: list[Message] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the task, such as "worker 1"."""
        return f"{self.job} {self.index}"

    @property
    def batches(self) -> int:
        """The number of batches that were read."""
        reads = (one for one in self.waits if one.op in BATCH_READERS)
        return sum(self.begin <= one.end < self.end for one in reads)

    def shift(self, ns: int) -> None:
        """Adds a number of ns to all times, to bring them to the clock of another machine."""
        self.begin, self.end = self.begin + ns, self.end + ns
        for spans in (self.spans, self.waits, self.background):
            spans[:] = [one._replace(begin=one.begin + ns, end=one.end + ns) for one in spans]
        for messages in (self.sent, self.arrived):
            messages[:] = [one._replace(at=one.at + ns) for one in messages]
        self.calls = [(begin + ns, end + ns) for begin, end in self.calls]
