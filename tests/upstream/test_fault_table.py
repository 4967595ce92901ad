"""Everything that an upstream's answer and the network to it can do wrong, and what becomes of tasks and money.

One row a fault of the catalogue (N: network, U: content of answers). Each goes through the real client, the asking with
its breaker, the pass, the judging and a real database: KEEP means that not one row of the gateway's tables was written,
told by their physical versions. Rows that take more than one answer to tell are tests of their own in
``test_fault_rows.py``, which also holds that no row is missing.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.upstream.faults_server import (
    Behaviour,
    FaultServer,
    Request,
    bomb,
    drips,
    floods_with_processing,
    gzipped,
    hangs,
    never_ends_its_headers,
    replies,
    resets_in_the_body,
    response,
    sends,
    streams_for_ever,
    truncates,
)
from tests.upstream.rig import RATIO, MakeRig, Rig

RESERVED, QUOTA, USED = 450, 10_000, 5000

FAULTS = {
    "N01": "connection refused",
    "N02": "connecting leads into a black hole",
    "N03": "the connection is reset, or ends, in the middle of the body",
    "N04": "the answer drips",
    "N05": "endless 102 Processing",
    "N06": "TLS: expired, wrong host, self-signed, too old, stalled",
    "N07": "DNS: no such name, server failure, slow, another address",
    "N08": "packets are lost or reordered",
    "N09": "a thin line",
    "N10": "a kept connection is closed as we write",
    "N11": "one answer too many on a connection: all later ones are off by one",
    "N12": "the answer comes after our deadline",
    "N13": "proxies and TLS files named in the environment",
    "N14": "an IPv6 address that is dead",
    "N15": "one channel slow, the others fast",
    "N16": "all channels down, then up",
    "U01": "5xx, an error page, nothing at all",
    "U02": "429 with every sort of Retry-After",
    "U03": "401 and 403",
    "U04": "404, 405 and 410 for the path",
    "U05": "redirects",
    "U06": "codes that look like 0 and are not",
    "U07": "JSON that is none, or not in UTF-8",
    "U08": "nested too deep",
    "U09": "a body without end",
    "U10": "a bomb of compressed zeros",
    "U11": "numbers that are none",
    "U12": "numbers that fit nowhere",
    "U13": "things that are read as numbers elsewhere",
    "U14": "a key twice in one object",
    "U15": "data or items of the wrong type",
    "U16": "an id twice, saying the same",
    "U17": "an id twice, saying different things",
    "U18": "an id that nobody asked about",
    "U19": "the id of another channel's task",
    "U20": "one id, two rows",
    "U21": "ids left out",
    "U22": "words unknown, empty, in capitals, padded, misspelt",
    "U23": "a finished task goes back to work",
    "U24": "a finished task fails afterwards",
    "U25": "failed, with an error of any type",
    "U26": "an error or a result that is huge, or full of control characters",
    "U27": "progress out of range",
    "U28": "an old answer again",
    "U29": "a long list is cut",
    "U30": "an id in another spelling",
    "U31": "usage missing, negative, or beyond all bounds",
    "U32": "answers take their time for each id",
    "U33": "HTTP bent out of shape",
    "U34": "every second answer an error",
}
KEEP, FAILURE = "keep", "failure"


@dataclass(frozen=True)
class Success:
    """The task is settled as a success at this price."""

    charged: int = RESERVED


@dataclass(frozen=True)
class Progress:
    """The open row shows this progress from now on."""

    shown: str


Outcome = str | Success | Progress
AS_RESERVED = Success(RESERVED)


@dataclass(frozen=True)
class Case:
    """One answer: how upstream behaves, what becomes of job-1 and job-2, and as what it is counted."""

    row: str
    name: str
    behaviour: Behaviour
    outcomes: tuple[Outcome, ...] = (KEEP,)
    reason: str = "ok"
    anomaly: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    held: str = ""
    """Why job-1 was put aside for a person; empty when it was not."""

    @property
    def id(self) -> str:
        return f"{self.row}-{self.name}"


def data(*items: str) -> bytes:
    """A good envelope round *items*."""
    return f'{{"code":0,"msg":"ok","data":[{",".join(items)}]}}'.encode()


def item(task_id: str = "job-1", status: str = "completed", **more: object) -> str:
    return json.dumps({"task_id": task_id, "status": status, **more})


def used(total: str, name: str = "total_tokens") -> bytes:
    """job-1 is completed, its usage with *total* verbatim."""
    return data(f'{{"task_id":"job-1","status":"completed","usage":{{"{name}":{total}}}}}')


def told(*items: str) -> Behaviour:
    """Answers with those of *items* that the request names."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(data(*(text for text in items if any(f'"{name}"' in text for name in request.ids)))))

    return behave


FAILED = data(item(status="failed"))
DEEP = f'{{"task_id":"job-1","status":"failed","r":{"[" * 100_000 + "]" * 100_000}}}'
NAN = '{"task_id":"job-1","status":"completed","usage":{"total_tokens":NaN}}'
DONE = data(item(usage={"total_tokens": 100}))
DONE_100 = Success(100 * RATIO)
SOON = {"timeout_s": 0.5}


def bad(row: str, name: str, behaviour: Behaviour, reason: str, **settings: Any) -> Case:
    """No usable answer: nothing is written, and it is counted under *reason*."""
    return Case(row, name, behaviour, (KEEP,), reason, settings=settings)


def good(row: str, name: str, body: bytes, *outcomes: Outcome, anomaly: str = "", **settings: Any) -> Case:
    """An answer that counts, whatever it is worth."""
    return Case(row, name, replies(body), outcomes or (KEEP,), "ok", anomaly, settings)


def status(row: str, said: str, reason: str, *headers: str) -> Case:
    return bad(row, said.replace(" ", "-"), replies(FAILED, said, headers), reason)


CASES = [
    bad("N03", "reset", resets_in_the_body, "network"),
    bad("N03", "cut", truncates, "network"),
    bad("N04", "drip", drips, "timeout", **SOON),
    bad("N05", "processing", floods_with_processing, "timeout", **SOON),
    bad("N05", "headers", never_ends_its_headers, "timeout", **SOON),
    bad("N12", "silence", hangs, "timeout", **SOON),
    *(status("U01", said, "server_error") for said in ("500 Oops", "502 Bad Gateway", "503 Busy", "504 Late")),
    bad("U01", "page", replies(b"<html><body>502 Bad Gateway</body></html>"), "not_json"),
    bad("U01", "nothing", replies(b""), "not_json"),
    status("U03", "401 Unauthorized", "auth"),
    status("U03", "403 Forbidden", "auth"),
    *(status("U04", said, "client_error") for said in ("404 Not Found", "405 Not Allowed", "410 Gone")),
    *(
        good("U06", f"code {code}", FAILED.replace(b":0,", code.encode(), 1), FAILURE)
        for code in (":0.0,", ':"0",', ":-0,")
    ),
    *(
        bad("U06", f"code {code}", replies(FAILED.replace(b":0,", f":{code},".encode(), 1)), "code")
        for code in ("1", "200", "false", "true", "null", '"success"', '"00"', "1e-9", "[]", '""', '" 0"')
    ),
    bad("U06", "no code", replies(b'{"data":[{"task_id":"job-1","status":"failed"}]}'), "code"),
    bad("U06", "two codes", replies(FAILED.replace(b'"code":0', b'"code":1,"code":0')), "envelope"),
    bad("U07", "unfinished", replies(FAILED[:-4]), "not_json"),
    bad("U07", "more after it", replies(FAILED + b" trailing"), "not_json"),
    bad("U07", "utf-16", replies(FAILED.decode().encode("utf-16")), "not_json"),
    bad("U07", "latin-1", replies(data(item(status="failed", error="~")).replace(b"~", b"\xe9")), "not_json"),
    good("U07", "byte order mark", b"\xef\xbb\xbf" + FAILED, FAILURE),
    bad("U08", "brackets", replies(b"[" * 100_000), "too_deep"),
    bad("U08", "closed brackets", replies(data("[" * 100_000 + "]" * 100_000)), "too_deep"),
    Case("U08", "one item", told(DEEP, item("job-2")), (KEEP, AS_RESERVED), "too_deep"),
    Case("U11", "NaN in one item", told(NAN, item("job-2")), (KEEP, AS_RESERVED), "not_json"),
    bad("U09", "stream", streams_for_ever, "too_large"),
    bad("U09", "announced", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n" + FAILED), "too_large"),
    bad("U10", "gzip", sends(bomb(64 << 20)), "too_large"),
    bad("U10", "gzip of gzip", sends(gzipped(gzip.compress(FAILED))), "not_json"),
    bad("U10", "three layers", sends(response(FAILED, headers=["Content-Encoding: gzip, gzip, gzip"])), "encoding"),
    bad("U10", "brotli", sends(response(FAILED, headers=["Content-Encoding: br"])), "encoding"),
    bad("U10", "no gzip at all", sends(response(FAILED, headers=["Content-Encoding: gzip"])), "encoding"),
    Case("U10", "gzip, though not asked for", sends(gzipped(FAILED)), (FAILURE,)),
    bad("U11", "NaN", replies(used("NaN")), "not_json"),
    bad("U11", "Infinity", replies(used("-Infinity")), "not_json"),
    good("U11", "1e400", used("1e400"), AS_RESERVED, anomaly="unusable_usage"),
    good("U12", "4301 digits", used("9" * 4301), AS_RESERVED, anomaly="unusable_usage"),
    good("U12", "-1", used("-1"), AS_RESERVED, anomaly="unusable_usage"),
    good("U12", "whole", used("1000"), Success(1000 * RATIO)),
    Case("U12", "10**15", replies(used(str(10**15))), held="charge_implausible"),
    *(
        good("U13", f"tokens {total}", used(total), AS_RESERVED, anomaly="unusable_usage")
        for total in ("true", '"7"', '" 7 "', '"٣"', '"1_000"', "[7]", "1.5")
    ),
    good("U13", "tokens 7.0", used("7.0"), Success(7 * RATIO)),
    *(
        good("U13", f"progress {said}", data(f'{{"task_id":"job-1","status":"processing","progress":{said}}}'), outcome)
        for said, outcome in (
            ("50", Progress("50%")),
            ('"50"', Progress("50%")),
            ("true", KEEP),
            ("[]", KEEP),
            ("null", KEEP),
        )
    ),
    good("U14", "status", data('{"task_id":"job-1","status":"completed","status":"failed"}'), anomaly="unreadable"),
    good("U14", "id", data('{"task_id":"job-2","task_id":"job-1","status":"failed"}'), anomaly="unproven"),
    good("U14", "usage", used('1,"total_tokens":2'), anomaly="unreadable"),
    good("U15", "null", b'{"code":0,"data":null}'),
    *(
        bad("U15", f"data {said}", replies(f'{{"code":0,"data":{said}}}'.encode()), "envelope")
        for said in ("{}", '"none"', "7", '{"task_id":"job-1","status":"failed"}')
    ),
    bad("U15", "no data", replies(b'{"code":0}'), "envelope"),
    bad("U15", "a list", replies(b'[{"task_id":"job-1","status":"failed"}]'), "envelope"),
    good(
        "U15",
        "odd items",
        data("null", "7", "[]", '"x"', item("job-2", "failed")),
        KEEP,
        FAILURE,
        anomaly="unreadable_id",
    ),
    good(
        "U15",
        "status 17",
        data('{"task_id":"job-1","status":17}', item("job-2")),
        KEEP,
        AS_RESERVED,
        anomaly="unreadable",
    ),
    good("U16", "twice", data(item(usage={"total_tokens": 100}), item(usage={"total_tokens": 100})), DONE_100),
    good(
        "U17", "words", data(item(), item(status="failed"), item("job-2")), KEEP, AS_RESERVED, anomaly="contradiction"
    ),
    good(
        "U17", "usage", data(item(usage={"total_tokens": 1}), item(usage={"total_tokens": 2})), anomaly="contradiction"
    ),
    good("U18", "stranger", data(item("job-9", "failed"), item()), AS_RESERVED, KEEP, anomaly="stranger"),
    Case("U21", "first", told(item("job-2", "failed")), (KEEP, FAILURE)),
    Case("U21", "last", told(item(status="failed")), (FAILURE, KEEP)),
    good("U21", "all", data()),
    *(
        good("U22", f"unknown {word}", data(item(status=word)), anomaly="unknown_word")
        for word in ("teleporting", "pendding", "completed!", "compl\u0435ted", "x" * 10_000)
    ),
    good("U22", "empty", data(item(status="")), anomaly="unreadable"),
    good("U22", "blank", data(item(status="  ")), anomaly="unreadable"),
    good("U22", "control", data(item(status="com\u0000pleted")), anomaly="unreadable"),
    good("U22", "capitals", data(item(status="FAILED")), FAILURE),
    good("U22", "padded", data(item(status="  Failed\n")), FAILURE),
    good("U22", "not_found", data(item(status="not_found")), anomaly="unknown_word"),
    *(
        good("U25", f"error {said}", data(f'{{"task_id":"job-1","status":"failed","error":{said}}}'), FAILURE)
        for said in ("null", '""', "7", '{"code":7}', "[]", "true", '"boom"')
    ),
    good(
        "U26",
        "error",
        data(item(status="failed", error="\x00\x1b[31m\u202e<b>" + "x" * (10 << 20))),
        FAILURE,
        max_bytes=32 << 20,
        anomaly="result_unstorable",
    ),
    good(
        "U26",
        "result",
        data(item(result="x" * (10 << 20), usage={"total_tokens": 100})),
        DONE_100,
        max_bytes=32 << 20,
        anomaly="result_unstorable",
    ),
    good(
        "U26",
        "lone surrogate",
        data('{"task_id":"job-1","status":"failed","error":"\\ud800","result":"\\u0000\\udfff"}'),
        FAILURE,
    ),
    *(
        good(
            "U27",
            f"progress {said[:9]}",
            data(f'{{"task_id":"job-1","status":"processing","progress":{said}}}'),
            outcome,
        )
        for said, outcome in (
            ('"150%"', Progress("99%")),
            ("-1", Progress("0%")),
            ("0.5", Progress("0.5%")),
            ('"100%"', KEEP),
            ("100", KEEP),
            ("99.9", Progress("99%")),
            (f'"{"9" * 1_000_000}"', Progress("99%")),
            (f'"{"x" * 1_000_000}"', Progress("x" * 20)),
        )
    ),
    *(
        good("U30", f"id {said!r}", data(item(said, "failed")), anomaly="stranger")
        for said in ("JOB-1", " job-1", "job-1\u200b", "job\u20111")
    ),
    good("U30", "number", data('{"task_id":1,"status":"failed"}'), anomaly="stranger"),
    good("U31", "missing", data(item()), AS_RESERVED),
    good("U31", "null", data(item(usage=None)), AS_RESERVED),
    good("U31", "all zero", used("0"), AS_RESERVED),
    good("U31", "negative", used("-5"), AS_RESERVED, anomaly="unusable_usage"),
    good("U31", "beyond bounds", used(str(2**62)), AS_RESERVED, anomaly="unusable_usage"),
    bad(
        "U33",
        "two lengths",
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + FAILED),
        "network",
    ),
    bad("U33", "204 with a body", replies(FAILED, "204 No Content"), "network"),
    bad("U33", "999", replies(FAILED, "999 Odd"), "http_status"),
    bad("U33", "201", replies(FAILED, "201 Created"), "http_status"),
    bad("U33", "206", replies(FAILED, "206 Partial Content"), "http_status"),
    bad("U33", "huge header", sends(b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n" + FAILED), "network"),
    bad("U33", "bad chunk", sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + FAILED), "network"),
    bad("U33", "no HTTP", sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "network"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_fault(case: Case, make_rig: MakeRig) -> None:
    rig = await make_rig(**case.settings)
    async with FaultServer(case.behaviour) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in case.outcomes]
        before = await rig.picture()
        await rig.walk(channel)
        await expect(rig, tasks, case.outcomes, before)
        assert [note["reason"] for note in await rig.watched()] == ([case.held] if case.held else [])
        assert not any('"task_id"' in str(event) for event in rig.lines.events)
        counted = rig.reasons()
        assert counted[case.reason] >= 1, counted
        assert set(counted) <= {case.reason, "ok"}, counted
        if case.anomaly == "unknown_word":
            assert await rig.gateway.rows("SELECT seen_count FROM poller.unknown_status") == [{"seen_count": 1}]
        elif case.anomaly:
            assert rig.anomalies()[case.anomaly] >= 1, rig.anomalies()
        else:
            assert set(rig.anomalies()) <= {"unproven"}


async def expect(rig: Rig, tasks: list[int], outcomes: tuple[Outcome, ...], before: dict[str, Any]) -> None:
    """Every task is where its outcome says, every user has what that leaves, and nothing else was written."""
    after = await rig.picture()
    if all(outcome == KEEP for outcome in outcomes):
        assert after == before
        return
    old = {row["id"]: row for row in before["tasks"]}
    new = {row["id"]: row for row in after["tasks"]}
    users = {row["id"]: row for row in after["users"]}
    ledger = {row["task_pk"]: row for row in after["ledger"]}
    for pk, outcome in zip(tasks, outcomes, strict=True):
        user = users[new[pk]["user_id"]]
        charged = None
        if outcome == KEEP:
            assert new[pk] == old[pk]
        elif isinstance(outcome, Progress):
            assert (await rig.state(pk), new[pk]["progress"]) == ("IN_PROGRESS", outcome.shown)
        else:
            charged = outcome.charged if isinstance(outcome, Success) else 0
            assert await rig.state(pk) == ("SUCCESS" if isinstance(outcome, Success) else "FAILURE")
            assert new[pk]["progress"] == "100%"
            assert (ledger[pk]["reserved"], ledger[pk]["charged"]) == (RESERVED, charged)
            reason = new[pk]["fail_reason"]
            if outcome == FAILURE:
                assert 0 < len(reason) <= 2048
                assert reason.isprintable()
        refunded = 0 if charged is None else RESERVED - charged
        assert (user["quota"], user["used_quota"]) == (QUOTA + refunded, USED - refunded)
        assert (pk in ledger) is (charged is not None)
