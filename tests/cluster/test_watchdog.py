"""The watchdog of servers: one that accepts a connection and says nothing is over its limit, others are not."""

import contextlib
import socket
import time

from tfps.cluster.watchdog import Watchdog


def test_only_a_silent_server_is_over_its_limit():
    now = [0.0]
    with contextlib.ExitStack() as stack:
        silent, speaks, gone = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3))
        servers = {
            pid: ("{}:{}".format(*server.getsockname()), 100.0) for pid, server in enumerate((silent, speaks, gone), 1)
        }
        gone.close()
        watchdog = Watchdog(lambda: now[0])
        assert watchdog.look(servers) == []
        speaks.accept()[0].send(b"x")
        time.sleep(0.1)
        now[0] = 99.0
        assert watchdog.look(servers) == []
        now[0] = 101.0
        assert watchdog.look(servers) == [1]
        assert watchdog.look({}) == []
