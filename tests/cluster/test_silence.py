"""Tasks that stand still: told after a while, dead after a limit, and nothing of it if they answer again."""

import logging

from tfps.cluster.silence import Silence


def test_a_silent_task_is_named_and_then_dead(caplog):
    now, silent = [0.0], {"a:1"}
    silence = Silence(100.0, silent.__contains__, lambda: now[0])
    tasks = [("ps", 0, "a:1"), ("worker", 1, "b:1")]

    def look_at(second):
        now[0] = second
        return silence.look(tasks)

    with caplog.at_level(logging.WARNING, logger="tfps"):
        assert look_at(0) == look_at(9) == []
        assert not caplog.records
        assert look_at(20) == look_at(50) == []
        assert [record.message for record in caplog.records] == [
            "ps 0 at a:1 has not answered for 20 s: its process or its host stands still. After 100 s "
            "(TFPS_SILENCE_LIMIT_S) it counts as dead."
        ]
        silent.clear()
        assert look_at(90) == []
        assert caplog.records[-1].message == "ps 0 answers again after 90 s."
        silent.add("b:1")
        assert look_at(95) == look_at(195) == []
        assert look_at(196) == [("worker", 1)]
        assert look_at(197) == []  # once
