"""``poller demo`` as a user runs it: it ends well, and leaves nothing behind, also when it is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.e2e.harness import LIMIT_S, clean_environment, until
from tests.leftovers import LEASH


def demo(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LEASH, sys.executable, "-m", "poller", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    )


async def test_the_demo_ends_with_the_money_check_for_each_profile(profile_name: str) -> None:
    started = demo("--tasks", "60", "--profile", profile_name)
    try:
        with anyio.fail_after(LIMIT_S):
            said, _ = await anyio.to_thread.run_sync(started.communicate, abandon_on_cancel=True)
    finally:
        started.kill()
    assert started.returncode == 0, said
    assert "every quota is where it should be" in said


@pytest.mark.skipif(sys.platform != "linux", reason="the leash of child processes is Linux's")
async def test_a_killed_demo_leaves_no_process_behind() -> None:
    started = demo("--tasks", "2000")
    assert started.stdout is not None
    try:
        with anyio.fail_after(LIMIT_S):
            while "settled" not in await anyio.to_thread.run_sync(started.stdout.readline, abandon_on_cancel=True):
                pass
        children = children_of(started.pid)
        assert len(children) >= 2  # a server and a daemon
    finally:
        started.kill()
        started.wait(10)

    async def are_gone() -> bool:
        return not any(is_alive(pid) for pid in children)

    await until(are_gone, limit_s=30)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
