"""Ports for servers that are started later, or again."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A loopback port that nobody listens at, and that the kernel lends to no outgoing connection meanwhile."""
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    while True:
        port = random.randrange(min(10_000, end // 2), end)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
