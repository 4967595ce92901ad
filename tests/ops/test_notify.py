from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from poller.ops.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(10)
        yield listener


def notifier(systemd: socket.socket, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": systemd.getsockname(), **environ})


def test_without_systemd_every_notice_is_a_no_op():
    silent = Notifier({})
    assert silent.ready("x") is False
    assert silent.watchdog_s() is None


def test_notices_arrive_as_systemd_wants_them(systemd: socket.socket):
    told = notifier(systemd)
    assert told.ready("serving\n2 lanes")
    assert systemd.recv(4096) == b"READY=1\nSTATUS=serving 2 lanes"
    assert told.stopping(25.5)
    assert systemd.recv(4096) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=25500000"
    assert told.watchdog()
    assert systemd.recv(4096) == b"WATCHDOG=1"
    assert told.status("profile main")
    assert systemd.recv(4096) == b"STATUS=profile main"
    assert told.reloading()
    assert systemd.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_an_abstract_socket_works_too():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0poller-test-{os.getpid()}")
        listener.settimeout(10)
        assert Notifier({"NOTIFY_SOCKET": f"@poller-test-{os.getpid()}"}).ready()
        assert listener.recv(4096) == b"READY=1"


def test_a_systemd_that_left_is_no_reason_to_fail(tmp_path: Path):
    assert Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).watchdog() is False


def test_the_watchdog_is_patted_twice_as_often_as_needed(systemd: socket.socket):
    assert notifier(systemd, WATCHDOG_USEC="30000000").watchdog_s() == 15
    assert notifier(systemd, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())).watchdog_s() == 15


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_for_this_process_nobody_pats(systemd: socket.socket, environ: dict[str, str]):
    assert notifier(systemd, **environ).watchdog_s() is None
