"""The seconds of each phase from the call of `fit` to the end of its first step, and the CPU seconds of each role."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter as _now
from typing import Any

from benchmarks.meter import Meter


class Phases:
    """Measures a first step: create it, call `fit` with `callback`, and read `figures`.

    The phases: *build* is Keras's symbolic build; *record* the trace of a step that is thrown away; *trace* the trace
    of a closure without it; *start* all else, most of it the workers' work on the graph that arrives.

    Args:
        processes: process ids by role.
    """

    def __init__(self, processes: Mapping[str, Sequence[int]]) -> None:
        import keras

        from tfps.training.hoisting import Recording
        from tfps.training.traced_closures import TracedClosures

        self._seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._meter = Meter(processes)
        for owner, method, phase in (
            (keras.Model, "_maybe_symbolic_build", "build"),
            (Recording, "__init__", "record"),
            (TracedClosures, "_trace_iterator", "trace"),
        ):
            setattr(owner, method, self._timed(phase, getattr(owner, method)))
        self._meter.start()

    def end_step(self) -> None:
        """Ends the measurement at the first call."""
        if self._meter.reading is None:
            self._meter.stop()

    def figures(self, prefix: str) -> dict[str, float]:
        """Returns the figures, seconds by name.

        Args:
            prefix: the beginning of their names.
        """
        reading = self._meter.reading
        assert reading is not None
        parts = dict(self._seconds)
        # The recording is made within the trace.
        parts["trace"] -= parts["record"]
        parts["start"] = reading.seconds - sum(parts.values())
        cpu = {f"cpu_{role}": ms / 1000 for role, ms in reading.cpu_ms.items()}
        return {f"{prefix}_{name}_s": value for name, value in {"first_step": reading.seconds, **parts, **cpu}.items()}

    def _timed(self, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: object, **kwargs: object) -> object:
            started = _now()
            try:
                return method(*args, **kwargs)
            finally:
                self._seconds[phase] += _now() - started

        return timed
