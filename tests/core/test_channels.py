"""Channel rows, as operators really write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.channels import ChannelRow, is_header_name, read_channel
from poller.core.model import Channel, Secret
from poller.core.words import DEFAULT_WORDS

ROW = ChannelRow(3, 52, "one", "sk-good", "https://up.example/v1/", None, None, None, None, None)


def read(**changes: Any) -> Channel:
    return read_channel(ROW._replace(**changes), DEFAULT_WORDS, "X-Custom-Token")


def multi(**info: Any) -> str:
    return json.dumps({"is_multi_key": True, **info})


def test_a_good_row_can_be_asked_and_has_no_findings() -> None:
    channel = read()
    assert channel == Channel(
        3, 52, "one", "https://up.example/v1", (Secret("sk-good"),), DEFAULT_WORDS, "X-Custom-Token"
    )
    assert channel.askable


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "  ",
        "up.example",
        "//up.example",
        "ftp://up.example",
        "https://",
        "https:///path",
        "https://user:pass@up.example",
        "https://up.example\\@evil.example",
        "https://up.example/?q=1",
        "https://up.example/#f",
        "https://h。example",
        "https://up example",
        "https://up.example\n/x",
        "https://up.example:0",
        "https://up.example:65536",
        "https://up.example:port",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://a%2eb",
        "https://up.example/" + "x" * 2048,
    ],
)
def test_an_address_that_cannot_be_trusted_is_not_asked(url: str | None) -> None:
    channel = read(base_url=url)
    assert not channel.askable
    assert channel.base_url == ""
    assert len(channel.findings) == 1
    assert channel.findings[0].startswith("base_url ")
    assert "pass" not in channel.findings[0].replace("password", "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (" http://10.0.0.1:8080/ ", "http://10.0.0.1:8080"),
        ("HTTPS://up.example//", "https://up.example"),
        ("http://[::1]:9000/a/b/", "http://[::1]:9000/a/b"),
        ("http://under_score.svc", "http://under_score.svc"),
    ],
)
def test_addresses_in_use_are_taken(url: str, expected: str) -> None:
    channel = read(base_url=url)
    assert (channel.base_url, channel.askable, channel.findings) == (expected, True, ())


@pytest.mark.parametrize("key", [None, "", "  \n", "sk a", "sk-a\nsk-b", "sk-ü", "sk\x00", "x" * 513])
def test_a_key_that_no_header_takes_is_a_finding_that_does_not_show_it(key: str | None) -> None:
    channel = read(key=key)
    assert not channel.askable
    assert channel.keys == ()
    assert channel.findings
    assert not any("sk" in finding for finding in channel.findings)


def test_line_breaks_around_a_key_do_not_matter() -> None:
    assert read(key="\r\nsk-a \n").keys == (Secret("sk-a"),)


def test_a_multi_key_channel_gives_its_enabled_keys_in_order() -> None:
    info = multi(multi_key_status_list={"1": 2, "2": 1})
    assert read(key="a\nb\r\n c\n\na", channel_info=info).keys == (Secret("a"), Secret("c"))
    assert read(key='["a", "b", "c\\n"]', channel_info=info).keys == (Secret("a"), Secret("c"))


def test_a_bad_key_among_good_ones_is_a_finding_and_the_others_are_used() -> None:
    channel = read(key='["a", "b b", {"json": 1}]', channel_info=multi())
    assert channel.keys == (Secret("a"),)
    assert channel.askable
    assert len(channel.findings) == 2


def test_a_multi_key_channel_with_no_key_enabled_is_not_asked() -> None:
    channel = read(key="a\nb", channel_info=multi(multi_key_status_list={"0": 2, "1": 3}))
    assert not channel.askable
    assert channel.findings == ("no key is present, enabled and usable",)
    assert not read(key="[nonsense", channel_info=multi()).askable


def test_keys_of_a_channel_that_is_not_multi_key_are_not_split() -> None:
    assert not read(key="a\nb", channel_info='{"is_multi_key": false}').askable


def test_mappings_lie_over_each_other_with_the_own_column_on_top() -> None:
    channel = read(
        mapping='{"success": ["a"]}',
        setting='{"custompass_status_mapping": {"failed": ["a", "b"]}}',
        settings='{"custompass_status_mapping": "{\\"processing\\": [\\"b\\", \\"c\\"]}"}',
    )
    assert "a" in channel.words.success
    assert "b" in channel.words.failed
    assert "c" in channel.words.processing
    assert channel.findings == ()


def test_a_malformed_mapping_leaves_the_lower_ones_in_force() -> None:
    channel = read(mapping="{oops", setting='{"custompass_status_mapping": {"success": ["done"]}}')
    assert "done" in channel.words.success
    assert channel.findings == ("status mapping is not well-formed JSON",)
    assert channel.askable


def test_the_channels_own_header_wins_when_it_can_carry_a_token() -> None:
    assert read(other=" X-Mine ").token_header == "X-Mine"
    assert read(other="").token_header == "X-Custom-Token"
    for bad in ("a b", "X:Y", "Authorization", "host", "ü", '{"region": "x"}'):
        channel = read(other=bad)
        assert channel.token_header == "X-Custom-Token"
        assert len(channel.findings) == 1
        assert channel.askable
        assert not is_header_name(bad)


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [(15, 15.0), (0.5, 0.5), ("500ms", 0.5), ("2m", 120.0), ("7", 7.0), (None, None), ("", None)],
)
def test_a_channels_timeout_is_seconds_or_a_duration(timeout: Any, expected: float | None) -> None:
    channel = read(setting=json.dumps({"timeout": timeout}))
    assert (channel.timeout_s, channel.findings) == (expected, ())


@pytest.mark.parametrize(
    "timeout", ["0", "-1", "-" + "9" * 400, "9" * 400, "true", '"soon"', "[]", "NaN", "Infinity", "99999"]
)
def test_an_absurd_timeout_is_a_finding_and_not_in_force(timeout: str) -> None:
    channel = read(setting=f'{{"timeout": {timeout}}}')
    assert channel.timeout_s is None
    assert len(channel.findings) == 1
    assert channel.askable


def test_a_proxy_may_have_a_password_and_is_secret() -> None:
    channel = read(setting='{"proxy": "http://me:pw@proxy:3128"}')
    assert channel.proxy == Secret("http://me:pw@proxy:3128")
    assert "pw" not in repr(channel)
    assert read(setting='{"proxy": ""}').proxy is None


@pytest.mark.parametrize("proxy", ["https://proxy:3128", "socks5://me:pw@proxy:1080", "socks5h://[::1]:1080"])
def test_a_proxy_may_be_of_each_kind_that_gateways_take(proxy: str) -> None:
    channel = read(setting=json.dumps({"proxy": proxy}))
    assert channel.proxy == Secret(proxy)
    assert not channel.findings


@pytest.mark.parametrize("proxy", ["socks4://me:pw@proxy:1080", "proxy:3128", 7, "http://me:pw@", "http://pw ü"])
def test_a_channel_is_not_asked_past_a_proxy_that_cannot_be_used(proxy: Any) -> None:
    channel = read(setting=json.dumps({"proxy": proxy}))
    assert not channel.askable
    assert channel.proxy is None
    assert channel.findings[0].startswith("setting.proxy ")
    assert "pw" not in channel.findings[0]


def test_settings_that_are_no_objects_are_findings() -> None:
    channel = read(setting="[1]", settings="{", channel_info="[" * 100_000)
    assert len(channel.findings) == 3
    assert channel.askable


TEXT = (
    st.none()
    | st.text(max_size=30)
    | st.sampled_from(["[1, null]", '{"proxy": 1, "timeout": {}}', '{"is_multi_key": true}'])
)


@given(st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT))
def test_no_row_makes_reading_raise_and_what_cannot_be_asked_says_why(texts: tuple[str | None, ...]) -> None:
    channel = read_channel(ChannelRow(1, 52, *texts), DEFAULT_WORDS, "X-Custom-Token")
    assert channel.askable or channel.findings
    assert all("\n" not in finding for finding in channel.findings)
    assert not channel.askable or (channel.base_url and channel.keys)
