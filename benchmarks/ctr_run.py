"""One contender on one cluster: warmed up once, then measured any number of times."""

from typing import Any

from benchmarks.ctr_contenders import CONTENDERS, Tfps
from benchmarks.ctr_setup import Setup
from benchmarks.ctr_task import CtrTask
from benchmarks.meter import Meter, Reading

_WARM_UP_STEPS = 30
_TRIAL_EXAMPLES = 51_200
_CLOSURES_AN_EPOCH = 8  # of a worker, at least: docs/architecture.md
_FEWEST_STEPS = 32  # fewer would measure how a run begins and ends
_LONG_STEPS, _LONG_EXAMPLES = 256, 131_072  # closures are as long as they can be from 256 steps on: 32 x 8


def closure_steps(steps: int, workers: int, most: int) -> float:
    """The mean steps of a closure in an epoch of `steps`: fewer than `most` where the epoch is short."""
    most = min(most, -(-steps // (workers * _CLOSURES_AN_EPOCH)))
    return round(steps / -(-steps // most), 2)


class CtrRun:
    """Traces and warms up in the constructor.

    Args:
        name: of the contender.
        task: the work.
        setup: on how many processes, and how.
        seconds: about how long `measure` takes.
    """

    def __init__(self, name: str, task: CtrTask, setup: Setup, seconds: float) -> None:
        self._name, self._task = name, task
        mode = {"setup": setup} if issubclass(CONTENDERS[name], Tfps) else {}
        self._contender = CONTENDERS[name](task, setup.ps, setup.workers, **mode)
        self._train(_WARM_UP_STEPS)
        trial = max(_FEWEST_STEPS, _TRIAL_EXAMPLES // task.batch)
        long = min(_LONG_STEPS, _LONG_EXAMPLES // task.batch) if setup.exchange_every is None else 0
        fewest = max(_FEWEST_STEPS, long)
        self._steps = max(fewest, round(seconds * trial / self._train(trial).seconds))

    def measure(self) -> dict[str, Any]:
        """Trains for about the seconds of the constructor and returns the figures."""
        steps, reading = self._steps, self._train(self._steps)
        examples = steps * self._task.batch
        return {
            "trainer": self._name,
            "examples_per_s": round(examples / reading.seconds),
            "steps": steps,
            "seconds": round(reading.seconds, 2),
            "cpu_ms_per_1000_examples": {role: round(1000 * ms / examples, 2) for role, ms in reading.cpu_ms.items()},
            "loopback_bytes_per_step_at_most": reading.loopback_bytes // steps,
            **self._contender.traffic(),
        }

    def _train(self, steps: int) -> Reading:
        meter = Meter(self._contender.processes())
        self._contender.train(steps, meter)
        assert meter.reading is not None
        return meter.reading
