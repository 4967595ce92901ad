"""Logging: one event name, facts as fields, three forms, and no secret in any of them.

Lines are written by a thread of their own, so that a full pipe never holds up the event loop; when it stays full, lines
are dropped and counted instead. Other libraries' warnings go the same way.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import structlog

from poller.core.model import Secret
from poller.ops.log_lines import Redactor, console_line, json_line, text_line

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_ROOM = 10_000
_FLUSH_S = 2.0
_LOUD_LIBRARIES = ("httpx", "httpcore", "aiohttp", "asyncpg", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")


class Logger(Protocol):
    """What the rest of the daemon needs of a logger; fields keep their order, None is left out."""

    def debug(self, event: str, **facts: object) -> None:
        """For following single asks."""

    def info(self, event: str, **facts: object) -> None:
        """For units of work that are done."""

    def warning(self, event: str, **facts: object) -> None:
        """For what a person should look at some day."""

    def error(self, event: str, **facts: object) -> None:
        """For what a person should look at now."""


class Log:
    """The log of this process: ``logger`` writes to it, ``protect`` adds secrets, ``close`` writes what is left."""

    def __init__(self, *, level: str, form: str, stream: TextIO, colours: bool, secrets: Iterable[Secret]) -> None:
        self._redactor = Redactor()
        self._lines = _Lines(stream)
        self._foreign: _Foreign | None = None
        self.protect(*secrets)
        write = {"json": json_line, "text": text_line}.get(form) or console_line(colours=colours)
        processors: list[Any] = [self._stamp, self._redact, lambda _logger, _method, event: write(event)]
        wrapper = structlog.make_filtering_bound_logger(_LEVELS[level])
        self.logger: Logger = structlog.wrap_logger(
            self._lines, processors=processors, wrapper_class=wrapper, cache_logger_on_first_use=True
        )

    def protect(self, *secrets: Secret) -> None:
        """Hide these values from now on wherever they turn up: whole, and the password within a URL."""
        self._redactor.add(*secrets)

    def clean(self, text: str) -> str:
        """*text* without secrets, for lines that do not go through the logger."""
        return self._redactor.clean(text)

    @property
    def dropped_count(self) -> int:
        """Lines that were dropped because nobody read them."""
        return self._lines.dropped_count

    def close(self) -> None:
        """Write what is left, for a bounded time. The logger must not be used afterwards."""
        if self._foreign is not None:
            logging.getLogger().removeHandler(self._foreign)
        self._lines.close(_FLUSH_S)

    def take_over_libraries(self) -> None:
        """Send the standard library's logging here, warnings and worse only: at INFO some of it prints URLs."""
        self._foreign = _Foreign(self.logger)
        root = logging.getLogger()
        root.handlers[:] = [self._foreign]
        root.setLevel(logging.WARNING)
        logging.captureWarnings(True)
        for name in _LOUD_LIBRARIES:
            library = logging.getLogger(name)
            library.handlers.clear()
            library.propagate = True
            library.setLevel(logging.WARNING)

    def _stamp(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        name = event.pop("event")
        return {"timestamp": datetime.now(UTC), "level": method, "event": name, **event}

    def _redact(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return self._redactor.clean_event(event)


def set_up(
    *, level: str, form: str, stream: TextIO | None = None, colours: bool = True, secrets: Iterable[Secret] = ()
) -> Log:
    """Open the log of this process on *stream* (standard output) and route the libraries' own logging into it.

    *level* is debug, info, warning or error; *form* is auto, console, text or json, where auto means console on a
    terminal and text elsewhere.
    """
    target = stream or sys.stdout
    if form == "auto":
        form = "console" if target.isatty() else "text"
    log = Log(level=level, form=form, stream=target, colours=colours and target.isatty(), secrets=secrets)
    log.take_over_libraries()
    return log


class _Lines:
    """The sink of the logger: a bounded queue and the thread that empties it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(_ROOM)
        self.dropped_count = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def debug(self, line: str) -> None:
        self._put(line)

    info = warning = error = debug

    def _put(self, line: str) -> None:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped_count += 1

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            lines = [line]
            is_last = False
            while not self._queue.empty() and len(lines) < _ROOM:
                following = self._queue.get()
                if following is None:
                    is_last = True
                    break
                lines.append(following)
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # The reader is gone (broken pipe, closed stream). There is nowhere to say so; the count says it.
                self.dropped_count += len(lines)
            if is_last:
                return

    def close(self, limit_s: float) -> None:
        try:
            self._queue.put(None, timeout=limit_s)
        except queue.Full:
            return
        self._thread.join(limit_s)


class _Foreign(logging.Handler):
    """Turns a record of the standard library into an event of ours."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, object] = {"library": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            facts["exc_info"] = record.exc_info[1]
        write = self._logger.error if record.levelno >= logging.ERROR else self._logger.warning
        write("library_message", **facts)
