"""Telling systemd how it goes: the whole of sd_notify(3) that a daemon needs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that *environ* names in ``NOTIFY_SOCKET``; without one every call is a no-op.

    A notice that cannot be sent is lost: systemd's view matters less than the work.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_usec = environ.get("WATCHDOG_USEC", "")
        self._watchdog_pid = environ.get("WATCHDOG_PID", "")

    def watchdog_s(self) -> float | None:
        """Seconds between two pats, half of what systemd allows; None when nobody watches this process."""
        if not self._address or not self._watchdog_usec.isdecimal() or int(self._watchdog_usec) == 0:
            return None
        if self._watchdog_pid and self._watchdog_pid != str(os.getpid()):
            return None
        return int(self._watchdog_usec) / 2_000_000

    def ready(self, status: str = "") -> bool:
        """Start-up is over, or a reload is."""
        return self._send(READY="1", **({"STATUS": status} if status else {}))

    def reloading(self) -> bool:
        """A reload begins; ``ready`` ends it."""
        return self._send(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))

    def stopping(self, extend_s: float = 0.0) -> bool:
        """The drain begins and may take *extend_s* seconds."""
        extension = {"EXTEND_TIMEOUT_USEC": str(int(extend_s * 1_000_000))} if extend_s > 0 else {}
        return self._send(STOPPING="1", **extension)

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(STATUS=text)

    def watchdog(self) -> bool:
        """The loops turn."""
        return self._send(WATCHDOG="1")

    def _send(self, **states: str) -> bool:
        """Whether the notice was handed over."""
        if not self._address:
            return False
        lines = (f"{key}={value}".replace("\n", " ") for key, value in states.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True
