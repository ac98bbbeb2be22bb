"""The gate that keeps calls away from tasks while some of them are replaced."""

import threading

import pytest

from tfps.errors import ClusterTimeoutError
from tfps.runtime.gate import Gate
from tfps.runtime.waiting import Wait

LONG_S = 60.0


def test_a_call_waits_while_the_gate_is_closed():
    gate, passed = Gate(), threading.Event()

    def call():
        with gate.passage():
            passed.set()

    with gate.closed(Wait("calls to end", LONG_S)):
        thread = threading.Thread(target=call)
        thread.start()
        assert not passed.wait(0.1)
    assert passed.wait(LONG_S)
    thread.join()


def test_closing_waits_for_the_calls_inside_and_opens_again_after_its_limit():
    gate = Gate()
    with gate.passage():
        with pytest.raises(ClusterTimeoutError, match="for calls to end"), gate.closed(Wait("calls to end", 0.05)):
            pass
        # A call within a call must not wait for itself.
        with gate.passage():
            assert gate.has_passed()
    with gate.closed(Wait("calls to end", LONG_S)):
        pass
