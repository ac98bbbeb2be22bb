"""Waits for the next window of a stream, for as long as it takes; the log says what it waits for."""

import contextlib
import dataclasses
import logging
import time

import keras

from tfps.errors import SourceError
from tfps.keras.model_content import strategy_of
from tfps.streaming.checkpoint import StreamState
from tfps.streaming.interface import Planned, Source
from tfps.streaming.windows import Rule, Window

_LOG = logging.getLogger("tfps")

_TOLD_EVERY_S = 600.0
_SLICE_S = 0.2
"""The longest sleep, so that a signal ends the wait at once."""


def next_window(source: Source, state: StreamState, rule: Rule, model: keras.Model) -> StreamState:
    """Returns the state with its window, once the source has it.

    The wait has no limit: a stream may be silent for days. A source that cannot be read has one, its `patience_s`.

    Raises:
        SourceError: the source cannot be read.
        SystemExit: the program got a SIGTERM; all windows so far are saved.
    """
    strategy = strategy_of(model)
    signals = None if strategy is None else strategy.stop_signals
    with contextlib.nullcontext() if signals is None else signals.handled():
        if signals is not None:
            # Nothing is under way between two windows.
            signals.register(lambda: None)
        try:
            patience = _Patience(source.patience_s)
            while signals is None or not signals.asked:
                planned = patience.plan(source, state, rule)
                if planned is not None:
                    window = Window(state.number, planned.start_s, planned.end_s, planned.parts, planned.count)
                    return dataclasses.replace(state, window=window, after=planned.position)
                _sleep(source.poll_s, signals)
        finally:
            if signals is not None:
                signals.register(None)
    # `handled` has ended the program.
    raise SourceError("the wait for the next window was ended by a signal.")


class _Patience:
    """Asks a source for its next window, and tolerates errors that may pass for a while.

    Args:
        patience_s: for how long.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._failing_since: float | None = None
        # So the first wait is in the log at once.
        self._told_at = -_TOLD_EVERY_S
        self._began = time.monotonic()

    def plan(self, source: Source, state: StreamState, rule: Rule) -> Planned | None:
        """Returns the next window; None if there is none yet.

        Raises:
            SourceError: the source cannot be read, for longer than the patience or for good.
        """
        now = time.monotonic()
        try:
            planned = source.plan(state.position, rule, time.time())
        except SourceError as error:
            if self._failing_since is None:
                self._failing_since = now
                _LOG.warning("the stream is asked again for up to %.0f s: %s", self._patience_s, error)
            if not error.may_pass or now - self._failing_since >= self._patience_s:
                raise
            return None
        # One answer is enough: patience begins anew with the next failure.
        self._failing_since = None
        if isinstance(planned, Planned):
            return planned
        if now - self._told_at >= _TOLD_EVERY_S:
            self._told_at = now
            _LOG.info("window %d waits for %s (%.0f s so far).", state.number, planned.reason, now - self._began)
        return None


def _sleep(seconds: float, signals: object) -> None:
    """Sleeps, in slices that a signal ends."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not getattr(signals, "asked", False):
        time.sleep(min(left, _SLICE_S))
