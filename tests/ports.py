"""Ports for servers that are told where to listen."""

import random
import socket


def free_port() -> int:
    """Return a port of this machine where nothing listens.

    It is none that the system hands out by itself, so that nobody is given it between
    this answer and its use: Linux begins these at 32768.
    """
    ports = random.SystemRandom().sample(range(27_000, 32_000), 100)
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
