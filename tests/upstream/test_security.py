"""What somebody who means harm can do with rows and answers: read no secret, run no SQL, get nobody else's key."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from poller.core.model import Secret
from poller.upstream.client import Limits
from tests.bounded import within
from tests.upstream.faults_server import Behaviour, FaultServer, Request, answer_of, response
from tests.upstream.rig import LIFETIME_S, MakeRig, Rig
from tests.upstream.socks_server import SocksServer
from tests.upstream.test_fault_table import data, item
from tests.upstream.test_keys_at_work import NOT_FOUND_FAILS

LIMIT_S = 120.0

# -- secrets ---------------------------------------------------------------------------------------------------------

SECRETS = {
    "key": "sk-canary-0-4f9d5c1e",
    "second key": "sk-canary-1-77aa01bc",
    "saved key": "sk-canary-2-90ff3de2",
    "client token": "tok-canary-3-5ab8c0",
    "proxy password": "pw-canary-4-31cafe",
}


def echoes(part: str) -> Behaviour:
    """Puts everything that it was sent into one *part* of its answer."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        sent = " ".join(value for name, value in request.headers.items() if name not in ("host", "content-type"))
        key = request.headers["authorization"].removeprefix("Bearer ")
        items = [{"task_id": name, "status": "processing"} for name in request.ids]
        headers = []
        status = "200 OK"
        match part:
            case "word":
                items = [each | {"status": key} for each in items]
            case "id":
                items.append({"task_id": key, "status": "failed"})
            case "error":
                items = [each | {"status": "failed", "error": sent, "result": {sent: [sent]}} for each in items]
            case "progress":
                items = [each | {"progress": key} for each in items]
            case "not_found":
                items = [each | {"status": "not_found", "error": sent} for each in items]
            case "location":
                status, headers = "302 Found", [f"Location: http://{key}.test/{key}?{key}"]
            case "reason":
                status = f"500 {sent}"
            case "refusal":
                status = "400 Bad Request"
        body = json.dumps({"code": 0, "msg": sent, "data": items}).encode()
        if part == "envelope":
            body = json.dumps({"code": sent, "message": sent, "data": sent}).encode()
        writer.write(response(body, status, headers))

    return behave


ECHOES = ["word", "id", "error", "progress", "not_found", "location", "reason", "refusal", "envelope"]


async def everything_written(rig: Rig) -> str:
    """All that a pass can have written anywhere: our tables, the gateway's, log lines and metrics.

    Left out are the columns in which the gateway itself keeps the secrets.
    """
    kept = {"properties", "private_data", "key", "setting", "channel_info"}
    found = []
    for table in ("ledger", "watch", "outbox", "unknown_status", "lane", "control", "operator_action"):
        found += await rig.gateway.rows(f"SELECT * FROM poller.{table}")
    for rows in (await rig.picture()).values():
        found += [{name: value for name, value in row.items() if name not in kept} for row in rows]
    return "\n".join([str(found), str(rig.lines.events), *rig.lines.text, rig.metrics.exposition()[0].decode()])


@pytest.mark.parametrize("part", ECHOES)
@within(LIMIT_S)
async def test_no_secret_is_written_anywhere_whatever_upstream_makes_of_it(
    part: str, make_rig: MakeRig, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = await make_rig("fork", words=NOT_FOUND_FAILS)
    login = ("us", SECRETS["proxy password"])
    async with FaultServer(echoes(part)) as server, SocksServer(login=login) as proxy:
        address = proxy.url(f"us:{login[1]}")
        channel = await rig.channel(
            f"http://up.test:{server.port}",
            key=f"{SECRETS['key']}\n{SECRETS['second key']}",
            channel_info='{"is_multi_key": true}',
            setting=json.dumps({"proxy": address}),
        )
        inner = json.dumps({"payload": {}, "token": SECRETS["client token"], "headerKey": "X-T"})
        for age_s in (60.0, 600.0, 2 * LIFETIME_S):
            await rig.task(channel, age_s=age_s, properties=json.dumps({"input": inner}))
        await rig.walk(channel, passes=4)
        assert server.requests
        assert all(request.headers["x-t"] == SECRETS["client token"] for request in server.requests)
    captured = capfd.readouterr()
    written = (await everything_written(rig)) + captured.out + captured.err
    assert [name for name, secret in SECRETS.items() if secret in written] == []


@within(LIMIT_S)
async def test_a_key_saved_with_a_task_is_written_nowhere_either(make_rig: MakeRig) -> None:
    rig = await make_rig()
    for part in ECHOES:
        async with FaultServer(echoes(part)) as server:
            channel = await rig.channel(server.url)
            await rig.task(channel, private_data=json.dumps({"key": SECRETS["saved key"]}))
            await rig.walk(channel, passes=2)
            assert server.requests
            assert all(SECRETS["saved key"] in request.headers["authorization"] for request in server.requests)
    assert SECRETS["saved key"] not in await everything_written(rig)


# -- text that would like to be code ---------------------------------------------------------------------------------

EVIL = [
    "'; DROP TABLE users; --",
    "'); DELETE FROM tasks; --",
    "$1", "%s", "{0}", "\\'; SELECT pg_sleep(9); --", "$$; DROP SCHEMA poller CASCADE; $$",
    "<script>alert(1)</script>", "{{7*7}}", "=cmd|' /C calc'!A0", "\"; --", "a,b}", "{\"a\":1}", "NULL", "\\N",
]  # fmt: skip


@within(LIMIT_S)
async def test_text_from_rows_and_answers_is_data_and_nothing_else(profile_name: str, make_rig: MakeRig) -> None:
    async def is_evil(request: Request, writer: asyncio.StreamWriter) -> None:
        said = []
        for name in request.ids:
            evil = EVIL[int(name.partition(":")[0])]
            word = "failed" if name.endswith("f") else "processing" if name.endswith("p") else evil
            said.append(item(name, word, error=evil, progress=evil, result={evil: evil}))
        writer.write(response(data(*said)))

    rig = await make_rig(profile_name)
    async with FaultServer(is_evil) as server:
        more = {} if profile_name == "documented" else {"other": EVIL[1], "setting": EVIL[2]}
        channel = await rig.channel(server.url, name=EVIL[0], **more)
        tasks = {
            (number, kind): await rig.task(channel, task_id=f"{number}:{evil}{kind}")
            for number, evil in enumerate(EVIL)
            for kind in "fpw"
        }
        users = len((await rig.picture())["users"])
        await rig.walk(channel, passes=2)
    after = {row["id"]: row for row in (await rig.picture())["tasks"]}
    assert len(after) == len(tasks)
    assert len((await rig.picture())["users"]) == users
    for (number, kind), pk in tasks.items():
        assert await rig.state(pk) == ("FAILURE" if kind == "f" else "IN_PROGRESS")
        if kind == "f":
            # As it was said, as text: whoever shows it has to see to that.
            assert after[pk]["fail_reason"] == EVIL[number]
    words = {row["word"] for row in await rig.gateway.rows("SELECT word FROM poller.unknown_status")}
    assert words == {evil.lower() for evil in EVIL}
    assert len(await rig.gateway.ledger()) == len(EVIL)


# -- nobody else's key -----------------------------------------------------------------------------------------------


@within(LIMIT_S)
async def test_a_key_goes_to_its_own_host_however_often_the_rows_are_turned_round(make_rig: MakeRig) -> None:
    chance = random.Random(17)
    rig = await make_rig(batch_size=3)
    answered = []

    async def answers(request: Request, writer: asyncio.StreamWriter) -> None:
        answered.append(request)
        # In the middle of a pass, between one batch and the next.
        if chance.random() < 0.3:
            await turn_round()
        writer.write(response(answer_of(request.ids)))

    async with FaultServer(answers) as first, FaultServer(answers) as second:
        accounts = [(first.url, "sk-of-the-first"), (second.url, "sk-of-the-second")]
        channels = [await rig.channel(url, key=key) for url, key in accounts]
        for channel in channels:
            for _ in range(9):
                await rig.task(channel)

        async def turn_round() -> None:
            accounts.reverse()
            rows = list(zip(channels, accounts, strict=True))
            async with rig.site.database.transaction(timeout_s=10.0) as transaction:
                for channel, (url, key) in rows:
                    await transaction.run(
                        "turn", f"UPDATE channels SET base_url = '{url}', key = '{key}' WHERE id = {channel}"
                    )

        for _ in range(15):
            for channel in channels:
                await rig.walk(channel)
        keys = [{request.headers["authorization"] for request in each.requests} for each in (first, second)]
    assert keys == [{"Bearer sk-of-the-first"}, {"Bearer sk-of-the-second"}]
    assert len(answered) == 15 * 6


def test_the_limits_of_a_client_show_no_proxy() -> None:
    shown = repr(
        Limits(1.0, 1.0, 1, 1, http_proxy=Secret("http://us:pw-canary@proxy"), https_proxy=Secret("pw-canary"))
    )
    assert "canary" not in shown
