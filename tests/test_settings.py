from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller import settings, settings_values
from poller.core.model import Secret
from poller.errors import Misconfigured
from poller.settings_values import duration_s, shown_duration, shown_size, shown_url, size_bytes

DSN = "postgres://me:hunter2canary@db.example:5432/gateway?sslmode=verify-full"
ROOT = Path(__file__).parents[1]


def faults(file: str | None = None, **environ: str) -> list[str]:
    with pytest.raises(Misconfigured) as refused:
        settings.load({"SQL_DSN": DSN, **environ}, file)
    assert "hunter2canary" not in str(refused.value)
    assert refused.value.exit_code == 78
    return list(refused.value.faults)


def loaded(**environ: str) -> settings.Settings:
    return settings.load({"SQL_DSN": DSN, **environ}).settings


def value(name: str, **environ: str) -> settings.Value:
    return next(found for found in settings.load({"SQL_DSN": DSN, **environ}).values if found.name == name)


def test_defaults_are_those_of_the_interface():
    found = loaded()
    assert found.poll_interval_s == 30
    assert found.lease_ttl_s == 15
    assert found.poll_start_delay_s == 0
    assert (found.batch_size, found.max_concurrent) == (50, 100)
    assert (found.task_timeout_s, found.http_timeout_s) == (15, 30)
    assert (found.retry_count, found.retry_delay_s) == (3, 1)
    assert found.task_max_lifetime_s == 3600
    assert found.deadline_policy == "refund"
    assert found.status_words.success == {"completed", "success", "finished"}
    assert found.status_words.failed == {"failed", "error", "cancelled"}
    assert found.status_words.processing == {"processing", "pending", "running", "submitted"}
    assert (found.not_found_count, found.not_found_grace_s) == (3, 300)
    assert found.header_key == "X-Custom-Token"
    assert (found.db_max_open_conns, found.db_max_idle_conns) == (10, 2)
    assert found.max_response_bytes == 10_000_000
    assert found.channel_types == (51, 52, 53)
    assert found.schema == "auto"
    assert found.sync_frequency_s == 60
    assert found.memory_cache_enabled is True
    assert (found.log_level, found.log_format) == ("info", "auto")
    assert (found.metrics_enabled, found.metrics_port) == (True, 9090)
    assert (found.metrics_path, found.metrics_host) == ("/metrics", "0.0.0.0")
    assert found.drain_timeout_s == 25
    assert found.fork_lower_channel_used_quota is False
    assert (found.http_proxy, found.https_proxy, found.no_proxy, found.ca_file) == (None, None, (), None)
    assert found.admin_token is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600), (" 1H30M ", 5400), ("1.5s", 1.5)],
)
def test_durations_are_read_as_numbers_or_as_go_writes_them(text: str, seconds: float):
    assert loaded(CUSTOM_PASS_POLL_INTERVAL=text).poll_interval_s == seconds


@pytest.mark.parametrize("text", ["0", "0s", "-1", "-5s", "nan", "inf", "1e3", "30 s", "s", "1h-5m", "99999h", "٣s"])
def test_an_interval_that_is_zero_negative_endless_or_nonsense_is_refused(text: str):
    (line,) = faults(CUSTOM_PASS_POLL_INTERVAL=text)
    assert line.startswith("CUSTOM_PASS_POLL_INTERVAL (environment): ")
    assert line.endswith("expected a duration such as 30, 30s, 500ms, 2m or 1h from 100ms to 1d")


@given(st.floats(min_value=0.001, max_value=1e6).map(lambda seconds: round(seconds, 3)))
@example(0.0)
def test_a_shown_duration_reads_back_as_itself(seconds: float):
    assert duration_s(shown_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.integers(0, 2**40))
def test_a_shown_size_reads_back_as_itself(size: int):
    assert size_bytes(shown_size(size)) == size


@pytest.mark.parametrize(("text", "size"), [("2000", 2000), ("10MB", 10**7), ("512KiB", 2**19), ("1 mib", 2**20)])
def test_sizes_are_decimal_or_binary(text: str, size: int):
    assert loaded(CUSTOM_PASS_MAX_RESPONSE_SIZE=text).max_response_bytes == size


def test_lists_ignore_blanks_case_and_empty_parts():
    found = loaded(CUSTOM_PASS_STATUS_FAILED=" Failed,, NOT_FOUND ,failed,", CUSTOM_PASS_CHANNEL_TYPES="7, 8,")
    assert found.status_failed == ("failed", "not_found")
    assert found.channel_types == (7, 8)


def test_a_list_of_nothing_but_commas_is_refused():
    (line,) = faults(CUSTOM_PASS_STATUS_SUCCESS=" , ")
    assert "names nothing" in line


def test_empty_means_unset():
    found = loaded(CUSTOM_PASS_POLL_INTERVAL="", METRICS_PORT="  ", LOG_SQL_DSN="", REDIS_CONN_STRING=" ")
    assert (found.poll_interval_s, found.metrics_port) == (30, 9090)


def test_environment_wins_over_file_and_file_over_default(tmp_path: Path):
    file = tmp_path / "poller.toml"
    file.write_text('custom_pass_poll_interval = "7s"\nCUSTOM_PASS_BATCH_SIZE = 9\nENABLE_METRICS = false\n')
    environ = {"SQL_DSN": DSN, "CUSTOM_PASS_CONFIG_FILE": str(file), "CUSTOM_PASS_BATCH_SIZE": "8"}
    found = settings.load(environ)
    assert (found.settings.poll_interval_s, found.settings.batch_size) == (7, 8)
    assert found.settings.metrics_enabled is False
    origins = {value.name: value.origin for value in found.values}
    assert origins["CUSTOM_PASS_POLL_INTERVAL"] == f"file {file}"
    assert origins["CUSTOM_PASS_BATCH_SIZE"] == "environment"
    assert origins["CUSTOM_PASS_RETRY_COUNT"] == "default"


def test_a_file_may_write_lists_as_lists_and_numbers_as_numbers(tmp_path: Path):
    file = tmp_path / "poller.toml"
    file.write_text(
        'CUSTOM_PASS_STATUS_FAILED = ["Failed", "timeout"]\nCUSTOM_PASS_CHANNEL_TYPES = [7]\nSYNC_FREQUENCY = 5\n'
    )
    found = settings.load({"SQL_DSN": DSN}, str(file)).settings
    assert found.status_failed == ("failed", "timeout")
    assert found.channel_types == (7,)
    assert found.sync_frequency_s == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("LOG_LEVEL = ", "is not TOML"),
        ("METRICS_PORT = nan", "'nan' is not a whole number"),
        ("METRICS_PORT = {a = 1}", "is a table or a date"),
        ("METRICS_PORT = 1\nmetrics_port = 2", "is there twice"),
        ("\xff", "is not UTF-8 text"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: str, said: str):
    file = tmp_path / "poller.toml"
    file.write_bytes(content.encode("latin-1"))
    (line,) = faults(str(file))
    assert said in line
    assert str(file) in line


def test_a_missing_file_is_one_clear_line_and_hides_no_other_fault():
    lines = faults("/nowhere/poller.toml", METRICS_PORT="x")
    assert [line.split(" ")[0] for line in lines] == ["CUSTOM_PASS_CONFIG_FILE", "METRICS_PORT"]


def test_every_bad_value_is_reported_at_once_with_place_and_expectation():
    lines = faults(
        SQL_DSN="mysql://root:hunter2canary@db/x",
        CUSTOM_PASS_POLL_INTERVAL="soon",
        METRICS_PORT="70000",
        LOG_FORMAT="xml",
        CUSTOM_PASS_BATCH_SIZE="0",
        ENABLE_METRICS="maybe",
        CUSTOM_PASS_HEADER_KEY="X Y",
        METRICS_PATH="metrics",
    )
    assert len(lines) == 8
    assert all(re.fullmatch(r"[A-Z_]+ \(environment\): .+; expected .+", line) for line in lines)


@pytest.mark.parametrize("port", ["-1", "65536", "9090.5", "0x50"])
def test_a_port_out_of_range_is_refused(port: str):
    assert "from 0 to 65535" in faults(METRICS_PORT=port)[0]


def test_a_missing_dsn_says_how_to_try_the_demo():
    with pytest.raises(Misconfigured, match="poller demo") as refused:
        settings.load({})
    assert len(refused.value.faults) == 1


def test_a_command_without_need_of_a_database_loads_without_one():
    assert settings.load({}, needs_database=False).settings.sql_dsn is None


def test_database_url_stands_in_for_sql_dsn():
    found = settings.load({"DATABASE_URL": DSN})
    assert found.settings.sql_dsn == Secret(DSN)
    assert next(value.origin for value in found.values if value.name == "SQL_DSN") == "environment, as DATABASE_URL"


def test_the_gateways_names_of_pool_sizes_work_and_the_own_ones_win():
    found = settings.load(
        {"SQL_DSN": DSN, "SQL_MAX_OPEN_CONNS": "7", "SQL_MAX_LIFETIME": "60", "CUSTOM_PASS_DB_MAX_OPEN_CONNS": "5"}
    )
    assert (found.settings.db_max_open_conns, found.settings.db_max_lifetime_s) == (5, 60)
    assert any("SQL_MAX_OPEN_CONNS" in line and "not used" in line for line in found.warnings)


def test_any_secret_can_come_from_a_file(tmp_path: Path):
    dsn, token = tmp_path / "dsn", tmp_path / "token"
    dsn.write_bytes(f"\ufeff{DSN}\r\n".encode())
    token.write_text("sesame\n")
    found = settings.load({"SQL_DSN_FILE": str(dsn), "CUSTOM_PASS_ADMIN_TOKEN_FILE": str(token)})
    assert found.settings.sql_dsn == Secret(DSN)
    assert found.settings.admin_token == Secret("sesame")
    assert str(dsn) in found.values[0].origin


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"postgres://a\nb"])
def test_an_unusable_secret_file_is_named_without_its_content(tmp_path: Path, content: bytes):
    file = tmp_path / "dsn"
    file.write_bytes(content)
    with pytest.raises(Misconfigured) as refused:
        settings.load({"SQL_DSN_FILE": str(file)})
    (line,) = refused.value.faults
    assert line.startswith(f"SQL_DSN (file {file}, named by SQL_DSN_FILE in environment): ")


def test_a_missing_secret_file_is_not_called_a_missing_setting_too():
    with pytest.raises(Misconfigured) as refused:
        settings.load({"SQL_DSN_FILE": "/nowhere/dsn"})
    assert len(refused.value.faults) == 1
    assert "No such file" in refused.value.faults[0]


def test_a_secret_and_its_file_at_once_are_refused(tmp_path: Path):
    assert "SQL_DSN_FILE is set too" in faults(SQL_DSN_FILE=str(tmp_path))[0]


def test_an_unknown_name_is_a_warning_that_names_the_nearest():
    found = settings.load({"SQL_DSN": DSN, "CUSTOM_PASS_POL_INTERVAL": "3", "UNRELATED": "1"})
    assert len(found.warnings) == 1
    assert "did you mean CUSTOM_PASS_POLL_INTERVAL?" in found.warnings[0]


@pytest.mark.parametrize("name", ["CUSTOM_PASS_BOGUS", "CUSTOM_PASS_XYZZY"])
def test_an_unknown_name_that_resembles_none_gets_no_suggestion(name: str):
    (line,) = settings.load({"SQL_DSN": DSN, name: "3"}).warnings
    assert "did you mean" not in line
    assert line.startswith(f"{name} (environment): no setting has this name")


def test_an_unknown_key_of_the_file_is_a_warning_too(tmp_path: Path):
    file = tmp_path / "poller.toml"
    file.write_text('log_levle = "info"\n')
    (line,) = settings.load({"SQL_DSN": DSN}, str(file)).warnings
    assert "did you mean" in line
    assert "LOG_LEVEL" in line


def test_a_word_in_two_lists_is_an_error():
    (line,) = faults(CUSTOM_PASS_STATUS_FAILED="failed,pending")
    assert line.startswith("CUSTOM_PASS_STATUS_FAILED (environment): ")
    assert "pending" in line


def test_debug_true_means_log_level_debug_unless_a_level_is_set():
    assert loaded(DEBUG="true").log_level == "debug"
    assert value("CUSTOM_PASS_LOG_LEVEL", DEBUG="1").origin == "environment, as DEBUG"
    assert loaded(DEBUG="true", LOG_LEVEL="error").log_level == "error"
    assert loaded(DEBUG="app:*").log_level == "info"


def test_log_levels_of_other_programs_are_understood():
    assert loaded(LOG_LEVEL="WARN").log_level == "warning"
    assert loaded(CUSTOM_PASS_LOG_LEVEL="debug", LOG_LEVEL="error").log_level == "debug"


@pytest.mark.parametrize("name", ["GIN_MODE", "ENABLE_CACHE", "GOGC", "GOMEMLIMIT"])
def test_the_gateways_other_variables_are_accepted_and_explained(name: str):
    found = settings.examine({"SQL_DSN": DSN, name: "1"})
    assert not found.faults
    assert not found.unknown
    (note,) = found.notes
    assert note.startswith(name)
    assert "replace" in note


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_SQL_DSN", "clickhouse://u:hunter2canary@h/d"),
        ("LOG_SQL_DSN", "u:hunter2canary@tcp(h:3306)/d"),
        ("REDIS_CONN_STRING", "http://:hunter2canary@h"),
        ("REDIS_CONN_STRING", "h:6379"),
    ],
)
def test_logs_and_caches_of_another_kind_are_refused_in_one_line(name: str, value: str):
    (line,) = faults(**{name: value})
    assert line.startswith(f"{name} (environment): ")
    assert "hunter2canary" not in line


def test_logs_and_caches_of_a_gateway_are_taken_as_they_are():
    found = loaded(LOG_SQL_DSN="postgres://u:p@logs/d", REDIS_CONN_STRING="redis://:p@cache:6379/0", CRYPTO_SECRET="s")
    assert found.logs_elsewhere
    assert not loaded(LOG_SQL_DSN=DSN).logs_elsewhere
    assert not loaded().logs_elsewhere


def test_a_cache_without_the_gateways_secret_is_a_warning():
    found = settings.load({"SQL_DSN": DSN, "REDIS_CONN_STRING": "redis://cache"})
    assert "tokens' are not" in found.warnings[0]


def test_a_cache_needs_its_package(monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (line,) = faults(REDIS_CONN_STRING="redis://cache")
    assert "install custompass-poller[redis]" in line


def test_more_idle_than_open_connections_is_a_warning():
    found = settings.load({"SQL_DSN": DSN, "CUSTOM_PASS_DB_MAX_IDLE_CONNS": "20"})
    assert "more than the 10 connections" in found.warnings[0]


def test_a_lease_much_longer_than_the_interval_is_a_warning():
    found = settings.load({"SQL_DSN": DSN, "CUSTOM_PASS_LEASE_TTL": "10m", "CUSTOM_PASS_POLL_INTERVAL": "5s"})
    assert "10m, 120 intervals" in found.warnings[0]


def test_a_metrics_path_over_a_probe_is_refused():
    assert "side port uses itself" in faults(METRICS_PATH="/livez")[0]


def test_a_ca_file_must_hold_certificates(tmp_path: Path):
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    assert "certificate" in faults(CUSTOM_PASS_CA_FILE=str(file))[0]
    assert "cannot be read" in faults(CUSTOM_PASS_CA_FILE=str(tmp_path / "missing"))[0]


@pytest.mark.parametrize(
    ("dsn", "is_warned_about"),
    [
        ("postgres://me:hunter2canary@db.example:5432/gateway?sslmode=verify-full", False),
        ("postgres://me:hunter2canary@db.example:5432/gateway", True),
        ("postgres://me:hunter2canary@db.example/gateway?sslmode=require", True),
        ("postgres://me:hunter2canary@10.0.0.7/gateway?sslmode=disable", True),
        ("postgres://localhost:5433/gateway?sslmode=disable", False),
        ("postgres://me@127.0.0.1/gateway", False),
        ("postgres://me@[::1]:5432/gateway", False),
        ("postgres:///gateway?host=/run/postgresql", False),
        ("postgres://me@/gateway?host=db.example", True),
        ("postgres://me@%2Frun%2Fpostgresql/gateway", False),
        ("postgres://me@localhost:1,db.example:2/gateway", True),
    ],
)
def test_a_database_elsewhere_that_nothing_proves_is_a_warning(dsn: str, is_warned_about: bool):
    for name, more in (("SQL_DSN", {}), ("LOG_SQL_DSN", {"SQL_DSN": DSN})):
        warnings = settings.load({name: dsn, **more}).warnings
        assert [line.partition(" ")[0] for line in warnings] == [name] * is_warned_about
        assert "hunter2canary" not in str(warnings)


def test_a_limit_of_refunds_is_a_whole_number_or_none():
    assert loaded().max_refund_per_hour is loaded(CUSTOM_PASS_MAX_REFUND_PER_HOUR="").max_refund_per_hour is None
    assert loaded(CUSTOM_PASS_MAX_REFUND_PER_HOUR="500000").max_refund_per_hour == 500_000
    for bad in ("0", "-1", "1.5", "lots"):
        assert "CUSTOM_PASS_MAX_REFUND_PER_HOUR" in faults(CUSTOM_PASS_MAX_REFUND_PER_HOUR=bad)[0]


def test_proxies_follow_the_usual_names():
    found = loaded(https_proxy="proxy.example:3128", NO_PROXY="localhost, .internal")
    assert found.https_proxy == Secret("http://proxy.example:3128")
    assert found.no_proxy == ("localhost", ".internal")
    assert loaded(HTTP_PROXY="socks5h://u:p@proxy:1080").http_proxy == Secret("socks5h://u:p@proxy:1080")
    assert "kind that is not served" in faults(HTTP_PROXY="socks4://u:hunter2canary@h")[0]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgres://me:hunter2canary@db:5432/gw?sslmode=disable&password=hunter2canary",
        "postgres://me:hunter2/canary@db:5432/gw",
        "postgres://me:hunter2?canary@db/gw",
        "postgres://me:hunter2#canary@db/gw",
        "postgres://me:hunter2@canary@db/gw",
        "postgres://me:hunter2canary@db:port/gw",
        "postgres:///gw?user=me&password=hunter2canary&host=/run/pg",
    ],
)
def test_a_shown_dsn_never_holds_the_password(dsn: str):
    said = shown_url(Secret(dsn))
    assert "hunter2" not in said
    assert "canary" not in said


def test_a_shown_dsn_still_says_where_to():
    assert value("SQL_DSN").shown == "postgres://me:***@db.example:5432/gateway?sslmode=verify-full"


def test_the_annotated_file_in_the_repository_is_in_step():
    written = (ROOT / "config" / "poller.toml").read_text()
    assert written == settings.render_toml(), "run: python -m poller.settings > config/poller.toml"


def test_the_annotated_file_without_its_hashes_is_the_default_configuration(tmp_path: Path):
    file = tmp_path / "poller.toml"
    active = "\n".join(
        line.removeprefix("#") for line in settings.render_toml().splitlines() if " = " in line and line[1] != " "
    )
    file.write_text(active)
    assert len(tomllib.loads(active)) == len(settings.load({"SQL_DSN": DSN}).values)
    found = settings.load({"SQL_DSN": DSN}, str(file))
    assert found.settings == settings.load({"SQL_DSN": DSN}).settings
    assert not found.warnings


def test_no_text_of_settings_holds_a_secret():
    environ = {"SQL_DSN": DSN, "CUSTOM_PASS_ADMIN_TOKEN": "hunter2canary", "HTTPS_PROXY": "http://u:hunter2canary@p:1"}
    found = settings.load(environ)
    assert "hunter2canary" not in repr(found)
    assert "hunter2canary" not in repr(settings.examine({**environ, "METRICS_PORT": DSN}))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(settings_values).failed == 0
