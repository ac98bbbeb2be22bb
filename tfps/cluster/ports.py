"""Free ports of this machine, for tasks whose addresses must be known before they start.

Any thread; microseconds a port. Nobody owns the port afterwards, but the kernel keeps it out of its own picks for a
minute: a connection to it, closed from the listening side, is left in TIME_WAIT, and a server may still bind it
(SO_REUSEADDR, which gRPC sets).
"""

import socket

LOOPBACK = "127.0.0.1"


def reserve_address(host: str = LOOPBACK) -> str:
    """A "host:port" that a server started within a minute can bind, and that the kernel gives to nobody else."""
    # Port 0 has the kernel pick a free one.
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            accepted.close()  # this side closes first, so TIME_WAIT stays on the reserved port
            client.recv(1)
        port: int = listener.getsockname()[1]
    return f"{host}:{port}"
