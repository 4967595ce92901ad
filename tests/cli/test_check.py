from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run

CANARY = "hunter2canary"
DSN = f"postgres://me:{CANARY}@db:5432/gw"


def test_check_prints_every_value_with_its_origin(poller: Run):
    ran = poller("check", SQL_DSN=DSN, CUSTOM_PASS_POLL_INTERVAL="7")
    assert ran.code == 0
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines()}
    assert rows["SQL_DSN"][1:] == ["postgres://me:***@db:5432/gw", "environment"]
    assert rows["CUSTOM_PASS_POLL_INTERVAL"][1:] == ["7s", "environment"]
    assert rows["METRICS_PORT"][1:] == ["9090", "default"]
    assert rows["CUSTOM_PASS_ADMIN_TOKEN"][1:] == ["-", "default"]
    columns = {line.index(" default") for line in ran.out.splitlines() if line.endswith(" default")}
    assert len(columns) == 1


def test_check_tells_all_faults_at_once_and_exits_with_78(poller: Run):
    ran = poller("check", SQL_DSN="", METRICS_PORT="x", CUSTOM_PASS_POL_INTERVAL="3", LOG_FORMAT="xml")
    assert ran.code == 78
    faults = [line for line in ran.err.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 4
    assert any("poller demo" in line for line in faults)
    assert any("did you mean CUSTOM_PASS_POLL_INTERVAL" in line for line in faults)


def test_check_explains_what_replaces_the_gateways_variables(poller: Run):
    ran = poller("check", SQL_DSN=DSN, GIN_MODE="release", DEBUG="true")
    assert ran.code == 0
    assert "note: GIN_MODE (environment)" in ran.err
    assert "debug" in next(line for line in ran.out.splitlines() if line.startswith("CUSTOM_PASS_LOG_LEVEL"))


def test_check_as_json_is_one_object(poller: Run):
    ran = poller("check", "--json", SQL_DSN=DSN, METRICS_PORT="x")
    assert ran.code == 78
    told = json.loads(ran.out)
    assert ran.err == ""
    assert {"name": "CUSTOM_PASS_BATCH_SIZE", "value": "50", "origin": "default"} in told["settings"]
    assert len(told["faults"]) == 1


def test_check_shows_no_secret_whatever_is_wrong_with_it(poller: Run, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text(CANARY)
    for dsn in (
        DSN,
        f"mysql://me:{CANARY}@db/x",
        f"postgres://me:{CANARY}@db:port/x",
        f"postgres://me:a/{CANARY}@db/x",
    ):
        for form in ((), ("--json",)):
            ran = poller(
                "check",
                *form,
                SQL_DSN=dsn,
                REDIS_CONN_STRING=f"redis://:{CANARY}@r",
                CUSTOM_PASS_ADMIN_TOKEN_FILE=str(token),
                HTTPS_PROXY=f"http://u:{CANARY}@p:1",
                METRICS_PORT=dsn,
            )
            assert ran.code == 78
            assert CANARY not in ran.out + ran.err
