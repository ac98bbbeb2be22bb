"""Free ports of this machine, for tasks whose addresses must be known before they start.

Any thread, microseconds per port. Nobody owns the port afterwards, but the kernel does not hand it out again for a
minute: a connection to it, closed from the listening side, stays in TIME_WAIT. A server can still bind the port,
because gRPC sets SO_REUSEADDR.
"""

import socket

LOOPBACK = "127.0.0.1"


def reserve_address(host: str = LOOPBACK) -> str:
    """Returns a "host:port" that the kernel gives to nobody else for a minute, so that a server can bind it."""
    # For port 0 the kernel picks a free port.
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            # This side closes first, so that TIME_WAIT stays on the reserved port.
            accepted.close()
            client.recv(1)
        port: int = listener.getsockname()[1]
    return f"{host}:{port}"
