"""The demo's upstream for runs in which a daemon must find work, however long it took to start."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from poller.demo.fates import Fate
from poller.demo.simulator import Simulator

SPREAD_S = 20.0


class PatientSimulator(Simulator):
    """Its tasks begin to live, and its troubles to heal, with the first request.

    While *is_waited_for* says so, every fourth task takes its time, up to ``SPREAD_S``: there is something to settle
    for whoever comes late, and to see change.
    """

    def __init__(self, is_waited_for: Callable[[], bool] = lambda: False, **settings: Any) -> None:
        super().__init__(**settings)
        self._is_waited_for = is_waited_for

    def plan(self, task_id: str) -> Fate:
        """What becomes of *task_id*; how it ends is the same whenever that is."""
        fate, place = super().plan(task_id), zlib.crc32(task_id.encode())
        if place % 4 or not self._is_waited_for():
            return fate
        ends_s = self.started_s + SPREAD_S * (place % 1000 / 1000)
        return fate._replace(finishes_s=max(fate.finishes_s, ends_s))

    async def _list(self, request: Request) -> Response:
        if not self.requests:
            self.started_s = time.time()
        return await super()._list(request)
