"""The short form of the soak; ``python -m tests.soak --minutes 10`` is the long one."""

from __future__ import annotations

from pathlib import Path

import anyio

from tests.conftest import MakeDatabase
from tests.soak import soak


async def test_twenty_channels_half_of_them_broken_in_every_way_are_settled_exactly(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    with anyio.fail_after(180):
        report = await soak(await make_database("main", migrated=False), tmp_path / "log", seconds=20, tasks=2000)
    assert report.complaints(spare_s=10) == [], f"{report}\n{(tmp_path / 'log').read_text()[-4000:]}"
