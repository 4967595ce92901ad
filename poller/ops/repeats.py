"""What happens again and again is said now and then, with the count of what was left out."""

from __future__ import annotations

from collections.abc import Callable

_REPEAT_S = 30.0
_REMEMBERED = 2000


class Repeats:
    """Lets the first of equal events through and then one each ``_REPEAT_S``, with the count of those between."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def admit(self, *key: object) -> int | None:
        """How many were held back since the last one let through; None when this one is held back too."""
        now = self._clock()
        said_at, held = self._seen.get(key, (None, 0))
        if said_at is not None and now - said_at < _REPEAT_S:
            self._seen[key] = (said_at, held + 1)
            return None
        if len(self._seen) >= _REMEMBERED:
            self._seen.pop(next(iter(self._seen)))
        self._seen.pop(key, None)
        self._seen[key] = (now, 0)
        return held
