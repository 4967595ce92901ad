"""The words of the daemon as values: tasks, reports, decisions, settlements.

Everything here is immutable and knows no database, no network and no clock. Amounts are integers in quota
(500 000 quota are 1 USD); times are epoch seconds of the database's clock (``*_s`` floats).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Secret:
    """A value that may be sent to the one host it belongs to, and shown to nobody: ``repr`` and ``str`` hide it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; called only where a request or a connection is made."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


class State(enum.StrEnum):
    """Where a task stands, in one vocabulary for all profiles; each profile's SQL translates its own words."""

    UNKNOWN = "UNKNOWN"
    NOT_START = "NOT_START"
    SUBMITTED = "SUBMITTED"
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


class Outcome(enum.StrEnum):
    """How a task ended. The values are also states."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


class Task(NamedTuple):
    """An active row of the gateway's ``tasks``, as a page read it: maybe stale by the time it is decided on."""

    pk: int
    task_id: str
    """``tasks.task_id`` as read; a settlement is refused when the row no longer says so."""
    upstream_id: str
    """The id that upstream knows; empty when the row has none."""
    user_id: int
    channel_id: int
    model: str
    """Model of the request URL, its ``/submit`` included."""
    price_model: str
    """Model that prices are looked up by."""
    group: str
    """Billing group saved with the task (profile ``main``), else empty."""
    state: State
    progress: str
    reserved: int
    """What was charged up front, as read. The settlement takes it from the locked row instead."""
    submitted_s: float
    key: Secret | None
    """Upstream key saved with the task (profile ``main``)."""
    client_token: Secret | None
    token_header: str
    """Header name saved beside the client token, else empty."""
    terms: str
    """JSON text of the price terms saved at submit (``billing_info``, ``billing_context``), else empty."""
    sightings: int = 0  # ``not_found`` answers in a row so far
    sighted_s: float = 0.0
    """When the last of them was counted."""
    key_digest: str = ""
    """Digest of the key that answered for it last, on a channel with several keys; empty: the first one, or none."""
    is_forks: bool = False  # charged by the fork, before the gateway was upgraded from it (profile ``main``)


class Route(NamedTuple):
    """What all ids of one request share besides the channel: one request never mixes two of these."""

    model: str
    key: Secret | None
    client_token: Secret | None
    token_header: str


@dataclass(frozen=True, slots=True)
class StatusWords:
    """Upstream's status words, lower case; no word stands in two of the sets."""

    success: frozenset[str]
    failed: frozenset[str]
    processing: frozenset[str]


@dataclass(frozen=True, slots=True)
class Channel:
    """One upstream account: a row of the gateway's ``channels``, read and checked."""

    id: int
    type: int
    name: str
    base_url: str
    keys: tuple[Secret, ...]
    """Enabled keys, in order; more than one on a multi-key channel."""
    words: StatusWords
    """Effective words: the channel's own over those of the settings."""
    token_header: str
    """Header for the client's token when the task names none."""
    proxy: Secret | None = None
    timeout_s: float | None = None
    findings: tuple[str, ...] = ()
    """What is wrong with the row, each in one line that holds no secret; empty when it can be asked."""
    askable: bool = True


class Usage(NamedTuple):
    """Token counts that upstream reported; None where it gave none. All are whole, not negative and below 2**63."""

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    input: int | None = None
    output: int | None = None


class Kind(enum.Enum):
    """What sort of testimony a report is."""

    SAID = "said"
    """A readable item with a status word."""
    ABSENT = "absent"
    """A good answer without this id."""
    UNPROVEN = "unproven"
    """An answer without this id, but with strangers: maybe another request's answer."""
    UNREADABLE = "unreadable"
    CONTRADICTION = "contradiction"
    """The id more than once, saying different things."""
    NO_ANSWER = "no_answer"
    """No usable answer at all, or nobody could be asked."""


class Report(NamedTuple):
    """What upstream said of one task: testimony, not truth."""

    kind: Kind
    word: str = ""
    """The status word, stripped and in lower case; empty unless ``kind`` is SAID."""
    progress: str = ""
    """As said, a bare number with a percent sign added; empty when not said."""
    error: str = ""
    usage: Usage | None = None
    usage_unusable: bool = False
    """Usage was there, but one of its counts was no whole number in range."""
    finished_s: float | None = None
    """When upstream says that the work ended, where it tells."""
    payload: bytes = b""
    """The item verbatim."""


NO_ANSWER = Report(Kind.NO_ANSWER)
ABSENT = Report(Kind.ABSENT)
UNPROVEN = Report(Kind.UNPROVEN)


class Answer(NamedTuple):
    """A good answer: one report for each id that was asked about, and what else was seen in it."""

    reports: dict[str, Report]
    strangers: int = 0  # items for ids that nobody asked about
    unreadable: int = 0  # items that named no readable id


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force for one channel's decisions."""

    words: StatusWords
    interval_s: float
    lifetime_s: float
    deadline_refunds: bool
    not_found_count: int
    not_found_grace_s: float
    behind_s: float = 0.0  # by how much the database's clock may be behind the truth
    asking_s: float = float("inf")  # for how long upstream has been asked by now, without a break


class Keep(NamedTuple):
    """Leave the task open and ask again next pass."""

    reason: str
    sightings: int | None = None
    """``not_found`` sightings to remember from now on; None leaves them as they are, 0 clears them."""


class Advance(NamedTuple):
    """Write a later open state or a new progress; no money moves."""

    state: State
    progress: str
    payload: bytes
    sightings: int | None = None


class Settle(NamedTuple):
    """Final: upstream's verdict. A FAILURE is charged 0; a SUCCESS at the price of ``usage``."""

    outcome: Outcome
    reason: str
    usage: Usage | None = None
    usage_unusable: bool = False
    error: str = ""
    payload: bytes = b""
    finished_s: float | None = None


class GiveUp(NamedTuple):
    """No verdict will come: refund everything, or hold the task in quarantine for a person."""

    refund: bool
    reason: str
    detail: str = ""
    """One line for the person, or the fail reason of the refunded task."""
    payload: bytes = b""


Decision = Keep | Advance | Settle | GiveUp


@dataclass(frozen=True, slots=True)
class Settlement:
    """One final status and the money that goes with it, as the daemon wants it; the database says what came of it."""

    task: Task
    outcome: Outcome
    charged: int | None
    """None: as the locked row says was reserved."""
    rule: str
    """The rule that decided, such as ``failed_word`` or ``expired``."""
    price_source: str = ""
    fail_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    data: str | None = None
    """New ``tasks.data`` as JSON text; None leaves the column alone."""
    evidence: str = ""
    """What was seen, cleaned and bounded, for the ledger."""
    finished_s: float | None = None


class Verdict(enum.StrEnum):
    """What came of one settlement."""

    SETTLED = "settled"
    """Committed by this call."""
    ALREADY = "already"
    """The ledger had it; nothing moved."""
    REOPENED = "reopened"
    """The ledger had it but the row was open again: restored without money."""
    FINAL = "final"
    """The row is final without a ledger row of ours: somebody else finished it; nothing moved."""
    MOVED = "moved"
    """User, channel or task id are not what was read: left for the next pass."""
    GONE = "gone"
    """The row no longer exists, or is not of our platform."""
    LOCKED = "locked"
    """Somebody held a needed row too long: left for the next pass."""
    QUARANTINED = "quarantined"
    """Cannot be settled as data stand; kept for a person."""


class Settled(NamedTuple):
    """The fate of one settlement. Outcome, rule and amounts are those of the ledger row; 0 where there is none."""

    task: Task
    verdict: Verdict
    outcome: Outcome
    rule: str = ""
    reserved: int = 0
    charged: int = 0
    refunded: int = 0
    """``reserved - charged``; negative when more was charged."""
    reason: str = ""  # why, for LOCKED and QUARANTINED: one word for a label
    detail: str = ""  # and a line of names and codes
