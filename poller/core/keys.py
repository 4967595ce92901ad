"""Which key of a multi-key channel a task is asked about with, where nobody noted the one that it was submitted with.

The keys are tried in order. One that is refused (401, 403), or that does not know the task, means the next key and
never a verdict: only what all enabled keys say within one pass counts as said by upstream. Whichever key answers is
remembered by its digest, so that it is asked first from then on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Final

from poller.core.decide import NOT_FOUND
from poller.core.model import Kind, Report, Secret, Task

_DIGEST_LENGTH: Final = 16
_WEIGHTS: Final = {Kind.NO_ANSWER: 0, Kind.UNPROVEN: 1, Kind.ABSENT: 2}


def digest_of(key: Secret) -> str:
    """A name for *key* that may be stored and does not give it away.

    >>> digest_of(Secret("sk-1")) == digest_of(Secret("sk-1")), len(digest_of(Secret("sk-1")))
    (True, 16)
    """
    return hashlib.sha256(key.reveal().encode()).hexdigest()[:_DIGEST_LENGTH]


def is_unknown(report: Report) -> bool:
    """Whether *report* leaves it possible that another key knows the task."""
    return report.kind in _WEIGHTS or (report.kind is Kind.SAID and report.word == NOT_FOUND)


def weaker(first: Report, second: Report) -> Report:
    """The one of two such reports that proves less: all keys together prove no more than the weakest of them."""
    return min(first, second, key=lambda report: _WEIGHTS.get(report.kind, len(_WEIGHTS)))


class KeyRing:
    """The enabled keys of one channel during one pass. A key that upstream refuses is left alone until the next one."""

    def __init__(self, keys: Sequence[Secret]) -> None:
        self.keys = tuple(keys)
        self.is_multi = len(keys) > 1
        self._known = {digest_of(key): key for key in keys} if self.is_multi else {}
        self._refused: set[Secret] = set()

    def first(self, task: Task) -> Secret:
        """The key to ask about *task* with: saved with it, remembered, or the first one that was not refused."""
        if task.key is not None:
            return task.key
        if not self.is_multi:
            return self.keys[0]
        remembered = self._known.get(task.key_digest)
        if remembered is not None and self.may_ask(remembered):
            return remembered
        return self.next(()) or self.keys[0]

    def next(self, asked: Collection[Secret]) -> Secret | None:
        """The first key that was neither *asked* nor refused; None when there is none."""
        return next((key for key in self.keys if key not in asked and key not in self._refused), None)

    def refuse(self, key: Secret) -> None:
        """Upstream does not take *key*: no more asks with it in this pass."""
        self._refused.add(key)

    def may_ask(self, key: Secret) -> bool:
        """Whether *key* has not been refused in this pass."""
        return key not in self._refused

    def lesson(self, task: Task, key: Secret) -> str | None:
        """The digest to remember now that *key* answered for *task*; None when there is nothing new in that."""
        digest = digest_of(key)
        is_expected = task.key_digest == digest or (not task.key_digest and key == self.keys[0])
        return None if is_expected or task.key is not None else digest
