"""What becomes of a simulated task, told from a seed and its id alone: no memory, and anyone can compute it. Pure."""

from __future__ import annotations

import enum
import hashlib
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

_BORN = re.compile(r"sim-([0-9a-f]{1,16})-")
_WAITING_SHARE = 0.2
_MESSAGES = ("Invalid input", "content policy violation", "worker lost", "GPU out of memory")


class End(enum.Enum):
    """How a task ends; the values are upstream's words, but a lost task is never spoken of again."""

    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"


class Fate(NamedTuple):
    """The whole life of one task."""

    end: End
    usage: tuple[int, int] | None
    """Prompt and completion tokens; None where upstream reports none."""
    error: str
    begins_s: float
    """When it comes out of the queue."""
    finishes_s: float

    @property
    def is_success(self) -> bool:
        """Whether the task is to be paid for."""
        return self.end is End.COMPLETED

    def progress(self, now_s: float) -> int:
        """Percent done, 0 to 99; only a finished task is done."""
        share = (now_s - self.begins_s) / max(self.finishes_s - self.begins_s, 1e-9)
        return int(99 * min(max(share, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class Lives:
    """How tasks live and end. Times are seconds and exponential, shares are from 0 to 1."""

    seed: int = 0
    shortest_s: float = 1.0
    typical_s: float = 6.0
    longest_s: float = 30.0
    failed_share: float = 0.2
    lost_share: float = 0.0
    """Besides those whose id begins with ``lost-``, which upstream never knew."""
    unmetered_share: float = 0.1
    """Of the completed ones: without usage."""
    most_tokens: int = 4000

    def plan(self, task_id: str, born_s: float) -> Fate:
        """The fate of *task_id*. Ids that :func:`name` made know when they were born, all others are born at *born_s*.

        >>> Lives(seed=7).plan("t1", 0.0) == Lives(seed=7).plan("t1", 0.0)
        True
        """
        digest = hashlib.blake2b(f"{self.seed}:{task_id}".encode("utf-8", "surrogatepass"), digest_size=24).digest()
        pace, ending, metering, prompt, completion, message = (
            int.from_bytes(digest[start : start + 4], "big") / 2**32 for start in range(0, 24, 4)
        )
        named = _BORN.match(task_id)
        begun_s = int(named[1], 16) / 1000 if named else born_s
        lasts_s = min(self.shortest_s - self.typical_s * math.log(1 - pace), self.longest_s)
        begins_s, finishes_s = begun_s + lasts_s * _WAITING_SHARE, begun_s + lasts_s
        if task_id.startswith("lost-") or ending < self.lost_share:
            return Fate(End.LOST, None, "", begins_s, finishes_s)
        if ending < self.lost_share + self.failed_share:
            return Fate(End.FAILED, None, _MESSAGES[int(message * len(_MESSAGES))], begins_s, finishes_s)
        usage = (1 + int(prompt * self.most_tokens), int(completion * self.most_tokens))
        return Fate(End.COMPLETED, None if metering < self.unmetered_share else usage, "", begins_s, finishes_s)


def name(born_s: float, number: int) -> str:
    """An id for a task submitted at *born_s*; *number* tells those of one millisecond apart."""
    return f"sim-{int(born_s * 1000):x}-{number:x}"
