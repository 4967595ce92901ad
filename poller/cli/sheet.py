"""Tables and facts for people: rich on a terminal, plain aligned text everywhere else, where nothing is ever cut."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from poller.ops.log_lines import escaped


class Sheet(NamedTuple):
    """One table. Columns whose name ends in ``>`` are aligned to the right; without any name there is no header."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    empty: str = "none"
    """What is said instead of a table without rows."""


def show(*parts: Sheet | str) -> None:
    """Print sheets and lines of text to stdout, a blank line round each sheet.

    Ids, models and reasons are other people's words: nothing in them reaches the terminal that could steer it.
    """
    import sys

    parts = tuple(escaped(part) if isinstance(part, str) else _escaped(part) for part in parts)
    if sys.stdout.isatty():
        _show_rich(parts)
        return
    for place, part in enumerate(parts):
        if place and not (isinstance(part, str) and isinstance(parts[place - 1], str)):
            click.echo()
        for line in [part] if isinstance(part, str) else _plain(part):
            click.echo(line)


def facts(pairs: Mapping[str, object]) -> list[str]:
    """Lines ``name  value`` with the values in one column; what is None or empty is left out."""
    shown = {name: str(value) for name, value in pairs.items() if value is not None and value != ""}
    width = max((len(name) for name in shown), default=0)
    return [f"{name:<{width}}  {value}" for name, value in shown.items()]


def ago(seconds: float | None) -> str:
    """A length of time as its two largest units; ``-`` for none or an endless one.

    >>> [ago(each) for each in (0.4, 75, 3600, 200_000, None, math.inf)]
    ['0s', '1m15s', '1h', '2d7h', '-', '-']
    """
    if seconds is None or not math.isfinite(seconds):
        return "-"
    left = int(max(0.0, seconds))
    parts: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count}{name}")
        elif parts:
            break
    return "".join(parts[:2])


def stamp(epoch_s: float | None) -> str:
    """UTC, as the log writes it; ``-`` for none or for what is no time."""
    if not epoch_s or not is_time(epoch_s):
        return "-"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_s))


def json_of(value: object) -> str:
    """*value* as JSON for every reader: what is no number in JSON, such as an infinite time, is null.

    >>> json_of([1.5, math.inf]).split()
    ['[', '1.5,', 'null', ']']
    """
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_time(epoch_s: float) -> bool:
    """Whether this is a time in seconds; milliseconds, say, are none.

    >>> is_time(1_700_000_000), is_time(1_700_000_000_000), is_time(0), is_time(math.inf)
    (True, False, False, False)
    """
    return 0 < epoch_s < 253_402_300_800


def _escaped(sheet: Sheet) -> Sheet:
    rows = [["" if value is None else escaped(str(value)) for value in row] for row in sheet.rows]
    return sheet._replace(rows=rows)


def _plain(sheet: Sheet) -> Iterable[str]:
    if not sheet.rows:
        yield f"{sheet.title}: {sheet.empty}"
        return
    yield f"{sheet.title}:"
    heads = [name.removesuffix(">") for name in sheet.columns]
    cells = [
        *([heads] if any(heads) else []),
        *[[str(value) for value in row] for row in sheet.rows],
    ]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    for row in cells:
        yield "  ".join(
            f"{text:>{width}}" if name.endswith(">") else f"{text:<{width}}"
            for name, text, width in zip(sheet.columns, row, widths, strict=True)
        ).rstrip()


def _show_rich(parts: Sequence[Sheet | str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(part, overflow="fold"))
        elif not part.rows:
            console.print(Text.assemble("\n", (part.title, "bold"), f": {part.empty}"))
        else:
            table = Table(title=part.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
            table.header_style, table.show_header = "dim", any(part.columns)
            for name in part.columns:
                justify: Any = "right" if name.endswith(">") else "left"
                table.add_column(name.removesuffix(">"), justify=justify, overflow="fold")
            for row in part.rows:
                table.add_row(*[Text(str(value)) for value in row])
            console.print()
            console.print(table)
