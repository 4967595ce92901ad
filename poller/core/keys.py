"""Which key of a multi-key channel a task is asked about with, where nobody noted the one that it was submitted with.

The keys are tried in order. One that is refused (401, 403), or that does not know the task, means the next key and
never a verdict: only what all enabled keys say within one pass counts as said by upstream. Whichever key answers is
remembered by its digest, so that it is asked first from then on.

Asking all keys is a search. A task that was searched for in vain is searched for again after 1, 2, 4 … passes, at most
so many that a search costs ``_KEYS_A_PASS`` requests a pass; from its deadline on the same again, because then it is
evidence. On the passes between, one key beside the usual one is tried, another one each time, and what those two do
not know counts as not answered.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from poller.core.decide import NOT_FOUND
from poller.core.model import Kind, Policy, Report, Secret, Task

_DIGEST_LENGTH: Final = 16
_KEYS_A_PASS: Final = 4
_FORMER_KEYS: Final = 100
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


class LastPass(NamedTuple):
    """What a lane remembers of its last whole pass, to tell which searches are due on the next one."""

    number: int
    began_s: float
    last_pk: int
    keys: tuple[Secret, ...]
    """Those that have been asked with, also such as are disabled by now: only a key that is new is worth a search."""
    key_count: int
    """How many of them were enabled."""


def seen_keys(keys: tuple[Secret, ...], last: LastPass | None) -> tuple[Secret, ...]:
    """All keys that a lane has seen, the enabled ones first, so many of the others that rotation fills no memory."""
    former = last.keys if last else ()
    return tuple(dict.fromkeys((*keys, *former)))[: len(keys) + _FORMER_KEYS]


def is_search_due(task: Task, began_s: float, policy: Policy, last: LastPass) -> bool:
    """Whether all keys are asked about *task* on a pass that began at *began_s*, should the usual one not know it."""
    gap = math.ceil(last.key_count / _KEYS_A_PASS)
    if gap <= 1 or task.pk > last.last_pk:
        return True
    return _searches(task, began_s, policy, gap) != _searches(task, last.began_s, policy, gap)


def _searches(task: Task, at_s: float, policy: Policy, gap: int) -> tuple[bool, float]:
    """A mark of how many searches are due by *at_s*: after 1, 2, 4 … intervals, then after every *gap* of them."""
    age_s = at_s - task.submitted_s
    is_past = age_s >= policy.lifetime_s
    intervals = (age_s - policy.lifetime_s if is_past else age_s) / policy.interval_s
    # The fraction tells the two kinds of steps apart.
    return is_past, math.frexp(intervals)[1] + 0.5 if 1 <= intervals < gap else intervals // gap


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

    def turn(self, pass_number: int, asked: Collection[Secret]) -> Secret | None:
        """The key whose turn it is on this pass, or else the next one that was neither *asked* nor refused."""
        start = pass_number % len(self.keys)
        following = (*self.keys[start:], *self.keys[:start])
        return next((key for key in following if key not in asked and key not in self._refused), None)

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
