"""The demo's upstream for runs in which a daemon must find work, however long it took to start."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from poller.demo.simulator import Simulator


class PatientSimulator(Simulator):
    """Its tasks begin to live, and its troubles to heal, with the first request."""

    async def _list(self, request: Request) -> Response:
        if not self.requests:
            self.started_s = time.time()
        return await super()._list(request)
