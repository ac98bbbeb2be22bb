"""A cable with a delay between two network namespaces: two TUN devices, and a process that passes packets between them.

It does the work of `tc netem`, for kernels built without that. It is a program of its own, so that it never waits for
the Python interpreter of the benchmark:

    python -m benchmarks.relay NEAR FAR

makes the TUN devices NEAR and FAR in its network namespace and prints a line. The last line of its standard input is
the delay in milliseconds, for both directions. A device may be moved to another namespace; its packets still arrive
here.
"""

import fcntl
import os
import queue
import struct
import sys
import threading
import time

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
MTU = 65_000


class _Delay:
    """What both directions read: seconds."""

    seconds = 0.0


def _open(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _read(source: int, under_way: queue.SimpleQueue, delay: _Delay) -> None:
    while True:
        packet = os.read(source, MTU + 64)
        under_way.put((time.monotonic() + delay.seconds, packet))


def _write(target: int, under_way: queue.SimpleQueue) -> None:
    while True:
        due, packet = under_way.get()
        while (left := due - time.monotonic()) > 0:
            time.sleep(left)
        os.write(target, packet)


def main() -> None:
    """Runs until its standard input ends."""
    delay, ends = _Delay(), [_open(name) for name in sys.argv[1:3]]
    print("ready", flush=True)
    sys.stdin.readline()  # the devices are up
    for source, target in (ends, ends[::-1]):
        under_way: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=_read, args=(source, under_way, delay), daemon=True).start()
        threading.Thread(target=_write, args=(target, under_way), daemon=True).start()
    for line in sys.stdin:
        delay.seconds = float(line) / 1000


if __name__ == "__main__":
    main()
