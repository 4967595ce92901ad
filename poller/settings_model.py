"""The table of settings: every name, default, bound and meaning. Reading them is ``settings.py``'s work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from pydantic.fields import FieldInfo

from poller.core.model import StatusWords
from poller.core.words import parse_words
from poller.settings_values import (
    Bytes,
    Count,
    Dsn,
    Expected,
    Flag,
    HeaderName,
    Hidden,
    Host,
    Numbers,
    Proxy,
    Quota,
    RedisUrl,
    Seconds,
    UrlPath,
    Words,
    level,
    lower,
    shown_duration,
    shown_size,
)

_HOUR, _DAY, _YEAR = 3600.0, 86400.0, 366 * 86400.0

Level = Annotated[
    Literal["debug", "info", "warning", "error"], BeforeValidator(level), Expected("debug, info, warning or error")
]
Format = Annotated[
    Literal["auto", "console", "text", "json"], BeforeValidator(lower), Expected("auto, console, text or json")
]
Schema = Annotated[
    Literal["auto", "documented", "fork", "main"], BeforeValidator(lower), Expected("auto, documented, fork or main")
]
Giving = Annotated[Literal["refund", "hold"], BeforeValidator(lower), Expected("refund or hold")]
File = Annotated[str | None, Expected("path of a readable file")]


def _setting(default: object, names: str, meaning: str, low: float | None = None, high: float | None = None) -> Any:
    """One setting: *default* as one would write it, *names* by blanks with the canonical one first, bounds included."""
    bounds: dict[str, Any] = {key: bound for key, bound in (("ge", low), ("le", high)) if bound is not None}
    about: dict[str, Any] = {"names": names.split(), "low": low, "high": high}
    return Field(default=default, validate_default=True, description=meaning, json_schema_extra=about, **bounds)


@validated(
    frozen=True,
    kw_only=True,
    config=ConfigDict(extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True),
)
class Settings:
    """The effective configuration; its fields in the order of the annotated file. ``*_s`` are seconds."""

    sql_dsn: Dsn = _setting(None, "SQL_DSN DATABASE_URL", "the gateway's PostgreSQL; required")
    log_sql_dsn: Dsn = _setting(None, "LOG_SQL_DSN", "the gateway's log database, when it is another one")
    redis_conn_string: RedisUrl = _setting(None, "REDIS_CONN_STRING", "the gateway's cache; unset: not adjusted")
    crypto_secret: Hidden = _setting(None, "CRYPTO_SECRET", "the gateway's secret, needed for its cache only")
    schema: Schema = _setting("auto", "CUSTOM_PASS_SCHEMA", "the gateway variant; auto looks at the tables")
    db_max_open_conns: Count = _setting(
        10, "CUSTOM_PASS_DB_MAX_OPEN_CONNS SQL_MAX_OPEN_CONNS", "database connections at most", 1, 1000
    )
    db_max_idle_conns: Count = _setting(
        2, "CUSTOM_PASS_DB_MAX_IDLE_CONNS SQL_MAX_IDLE_CONNS", "database connections kept while idle", 0, 1000
    )
    db_max_lifetime_s: Seconds = _setting("30m", "SQL_MAX_LIFETIME", "age at which a connection is replaced", 1, _DAY)

    poll_interval_s: Seconds = _setting(
        "30s", "CUSTOM_PASS_POLL_INTERVAL", "a lane asks about every active task once an interval", 0.1, _DAY
    )
    lease_ttl_s: Seconds = _setting(
        "15s", "CUSTOM_PASS_LEASE_TTL", "how long a silent replica keeps its lanes; renewed every third of it", 1, _HOUR
    )
    poll_start_delay_s: Seconds = _setting("0s", "CUSTOM_PASS_POLL_START_DELAY", "wait before the first pass", 0, _HOUR)
    batch_size: Count = _setting(50, "CUSTOM_PASS_BATCH_SIZE", "ids in one request", 1, 1000)
    max_concurrent: Count = _setting(100, "CUSTOM_PASS_MAX_CONCURRENT", "requests in flight over all lanes", 1, 1000)
    task_timeout_s: Seconds = _setting(
        "15s", "CUSTOM_PASS_TASK_TIMEOUT", "one ask, from start to last byte, retries not included", 0.1, _HOUR
    )
    http_timeout_s: Seconds = _setting(
        "30s", "CUSTOM_PASS_HTTP_TIMEOUT", "longest silence while reading; the smaller of the two wins", 0.1, _HOUR
    )
    retry_count: Count = _setting(3, "CUSTOM_PASS_RETRY_COUNT", "retries inside one ask", 0, 10)
    retry_delay_s: Seconds = _setting("1s", "CUSTOM_PASS_RETRY_DELAY", "wait before the first retry", 0, 60)
    max_response_bytes: Bytes = _setting(
        "10MB", "CUSTOM_PASS_MAX_RESPONSE_SIZE", "largest answer, also after decompression", 1024, 2**30
    )
    header_key: HeaderName = _setting(
        "X-Custom-Token", "CUSTOM_PASS_HEADER_KEY", "header of the client's token, where the task has one"
    )
    http_proxy: Proxy = _setting(None, "HTTP_PROXY http_proxy", "proxy to http upstreams; a channel's own wins")
    https_proxy: Proxy = _setting(None, "HTTPS_PROXY https_proxy", "proxy to https upstreams; a channel's own wins")
    no_proxy: Words = _setting((), "NO_PROXY no_proxy", "hosts and domains that are asked without a proxy")
    ca_file: File = _setting(None, "CUSTOM_PASS_CA_FILE", "certificates to trust besides the system's, as PEM")

    task_max_lifetime_s: Seconds = _setting(
        "1h", "CUSTOM_PASS_TASK_MAX_LIFETIME", "the deadline of a task, counted from its submission", 0.1, _YEAR
    )
    deadline_policy: Giving = _setting(
        "refund", "CUSTOM_PASS_DEADLINE_POLICY", "past the deadline: refund, or hold the task for a person"
    )
    status_success: Words = _setting(
        "completed,success,finished", "CUSTOM_PASS_STATUS_SUCCESS", "upstream's words for done; replaces the list"
    )
    status_failed: Words = _setting(
        "failed,error,cancelled", "CUSTOM_PASS_STATUS_FAILED", "upstream's words for failed; replaces the list"
    )
    status_processing: Words = _setting(
        "processing,pending,running,submitted",
        "CUSTOM_PASS_STATUS_PROCESSING",
        "upstream's words for not done yet; replaces the list",
    )
    not_found_count: Count = _setting(
        3, "CUSTOM_PASS_NOT_FOUND_COUNT", "sightings in a row before not_found counts, where it is listed", 1, 1000
    )
    not_found_grace_s: Seconds = _setting(
        "5m", "CUSTOM_PASS_NOT_FOUND_GRACE", "age of a task before not_found counts, where it is listed", 0, _YEAR
    )
    max_refund_per_hour: Quota = _setting(
        None,
        "CUSTOM_PASS_MAX_REFUND_PER_HOUR",
        "most quota that failed tasks of one channel give back within an hour; beyond it money waits",
        1,
        10**15,
    )
    channel_types: Numbers = _setting(
        "51,52,53", "CUSTOM_PASS_CHANNEL_TYPES", "channel types that health checks expect"
    )
    sync_frequency_s: Seconds = _setting(
        "60s", "SYNC_FREQUENCY", "how old a cached channel, price or group may be", 0.1, _DAY
    )
    memory_cache_enabled: Flag = _setting(
        True, "MEMORY_CACHE_ENABLED", "false: channels, prices and groups always from the database"
    )
    fork_lower_channel_used_quota: Flag = _setting(
        False,
        "CUSTOM_PASS_FORK_LOWER_CHANNEL_USED_QUOTA",
        "profile fork: a refund also lowers the channel's used quota",
    )

    log_level: Level = _setting("info", "CUSTOM_PASS_LOG_LEVEL LOG_LEVEL", "least level that is logged")
    log_format: Format = _setting("auto", "LOG_FORMAT", "auto: console on a terminal, else text")
    metrics_enabled: Flag = _setting(True, "ENABLE_METRICS", "false: no side port at all, neither metrics nor probes")
    metrics_port: Count = _setting(9090, "METRICS_PORT", "the side port; 0 takes any free one", 0, 65535)
    metrics_path: UrlPath = _setting("/metrics", "METRICS_PATH", "where metrics are on the side port")
    metrics_host: Host = _setting("0.0.0.0", "METRICS_HOST", "address of the side port")
    admin_token: Hidden = _setting(
        None, "CUSTOM_PASS_ADMIN_TOKEN", "bearer token of trigger, pause and resume; unset: from loopback only"
    )
    drain_timeout_s: Seconds = _setting(
        "25s", "CUSTOM_PASS_DRAIN_TIMEOUT", "how long a stop may take to finish what was asked", 0, _HOUR
    )

    notify: Mapping[str, str] = Field(default_factory=dict)
    """What systemd put into the environment; no setting of its own."""

    @property
    def logs_elsewhere(self) -> bool:
        """Whether the gateway keeps its logs in another database than its tasks."""
        return self.log_sql_dsn is not None and self.log_sql_dsn != self.sql_dsn

    @property
    def status_words(self) -> StatusWords:
        """The three lists as one value. Raises ValueError when a word stands in two of them."""
        return parse_words(self.status_success, self.status_failed, self.status_processing)


class About(NamedTuple):
    """What is known of a setting before anybody set it. *names* has the canonical one first."""

    field: str
    names: tuple[str, ...]
    meaning: str
    expected: Expected
    low: float | None
    high: float | None
    is_duration: bool

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown, and may stand in a file of its own."""
        return self.expected.shape in ("url", "secret")

    def bounds(self) -> str:
        """The bounds as one would write them, such as ``from 100ms to 1d``; empty where there are none."""
        if self.low is None or self.high is None:
            return ""
        return f"from {self.shown_bound(self.low)} to {self.shown_bound(self.high)}"

    def shown_bound(self, bound: float) -> str:
        """One bound in the setting's own unit."""
        if self.is_duration:
            return shown_duration(bound)
        return shown_size(int(bound)) if self.expected.shape == "size" else str(int(bound))


def abouts() -> list[About]:
    """Every setting, in the order of the fields."""
    found = []
    known: dict[str, FieldInfo] = vars(Settings)["__pydantic_fields__"]
    for field, info in known.items():
        extra = info.json_schema_extra
        if not isinstance(extra, dict):
            continue
        expected = next(mark for mark in info.metadata if isinstance(mark, Expected))
        names: Any = extra["names"]
        low: Any = extra["low"]
        high: Any = extra["high"]
        is_duration = field.endswith("_s")
        found.append(About(field, tuple(names), info.description or "", expected, low, high, is_duration))
    return found
