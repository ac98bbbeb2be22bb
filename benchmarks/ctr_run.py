"""One contender on one cluster: warmed up, then measured as often as asked."""

from typing import Any

from benchmarks.ctr_contenders import CONTENDERS
from benchmarks.ctr_task import CtrTask
from benchmarks.meter import Meter, Reading

_WARM_UP_STEPS = 30
_TRIAL_EXAMPLES = 51_200
_FEWEST_STEPS = 32  # fewer would measure how a run begins and ends


class CtrRun:
    """Traces and warms up when it is made.

    Args:
        name: of the contender.
        task: the work.
        cluster: parameter servers and workers.
        seconds: about how long `measure` takes.
    """

    def __init__(self, name: str, task: CtrTask, cluster: tuple[int, int], seconds: float) -> None:
        self._name, self._task = name, task
        self._contender = CONTENDERS[name](task, *cluster)
        self._train(_WARM_UP_STEPS)
        trial = max(_FEWEST_STEPS, _TRIAL_EXAMPLES // task.batch)
        self._steps = max(_FEWEST_STEPS, round(seconds * trial / self._train(trial).seconds))

    def measure(self) -> dict[str, Any]:
        """Trains for about the given seconds and returns the figures."""
        steps, reading = self._steps, self._train(self._steps)
        examples = steps * self._task.batch
        return {
            "trainer": self._name,
            "examples_per_s": round(examples / reading.seconds),
            "steps": steps,
            "seconds": round(reading.seconds, 2),
            "cpu_ms_per_1000_examples": {role: round(1000 * ms / examples, 2) for role, ms in reading.cpu_ms.items()},
            "loopback_bytes_per_step_at_most": reading.loopback_bytes // steps,
        }

    def _train(self, steps: int) -> Reading:
        meter = Meter(self._contender.processes())
        self._contender.train(steps, meter)
        assert meter.reading is not None
        return meter.reading
