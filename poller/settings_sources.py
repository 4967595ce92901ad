"""Where the text of a setting comes from: environment, configuration file, and files that hold one secret each."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CONFIG_FILE = "CUSTOM_PASS_CONFIG_FILE"
_PREFIX = "CUSTOM_PASS_"
_SECRET_LIMIT = 64 * 1024
_CONFIG_LIMIT = 1024 * 1024


class Given(NamedTuple):
    """One setting as somebody wrote it. *raw* is text, or a tuple where the file had a list."""

    raw: str | tuple[str, ...]
    origin: str


class Gathered(NamedTuple):
    """All that was found, by canonical name; the lists hold lines for a person.

    *faulty* names what could not be read, so that nobody calls it missing as well; ``CUSTOM_PASS_CONFIG_FILE`` among
    them means that anything may be missing.
    """

    given: dict[str, Given]
    inert: dict[str, Given]
    faults: list[str]
    faulty: set[str]
    warnings: list[str]
    unknown: list[str]


class Names(NamedTuple):
    """A setting's names, the canonical one first, and whether ``NAME_FILE`` may hold it."""

    names: tuple[str, ...]
    is_secret: bool


def gather(environ: Mapping[str, str], file: str | None, settings: Sequence[Names], inert: Iterable[str]) -> Gathered:
    """Text and origin of every setting that is set: the environment wins over the file; empty means unset.

    *file* names the TOML file, else ``CUSTOM_PASS_CONFIG_FILE`` does. *inert* names are known without being settings.
    """
    found = Gathered({}, {}, [], set(), [], [])
    environment = {name: Given(value, "environment") for name, value in environ.items() if value.strip()}
    path = file or environ.get(CONFIG_FILE, "").strip()
    written = _read_config(path, found) if path else {}
    known = {name for setting in settings for name in setting.names} | set(inert) | {CONFIG_FILE}
    known |= {f"{name}_FILE" for setting in settings if setting.is_secret for name in setting.names}
    ours = (name for name in environment if name.upper().startswith(_PREFIX))
    found.unknown.extend(_unknown(name, "environment", known) for name in sorted(ours) if name not in known)
    # The file's keys are read without regard to case, but http_proxy and HTTP_PROXY are one setting there anyway.
    known_in_file = {name.upper() for name in known} - {CONFIG_FILE}
    found.unknown.extend(_unknown(name, f"file {path}", known) for name in written if name not in known_in_file)
    for name in inert:
        value = environment.get(name) or written.get(name)
        if value is not None:
            found.inert[name] = value
    for setting in settings:
        for source in (environment, written):
            value = _choose(setting, source, found)
            if value is not None:
                found.given.setdefault(setting.names[0], value)
    return found


def _choose(setting: Names, source: Mapping[str, Given], found: Gathered) -> Given | None:
    """The value of one setting in one source, under the first of its names that is set."""
    canonical = setting.names[0]
    values: list[tuple[str, Given]] = []
    for name in setting.names:
        direct = source.get(name)
        pointer = source.get(f"{name}_FILE") if setting.is_secret else None
        if direct is not None and pointer is not None:
            found.faults.append(f"{name} ({direct.origin}): {name}_FILE is set too; expected only one of them")
            found.faulty.add(canonical)
        if direct is not None:
            values.append((name, direct))
        elif pointer is not None:
            try:
                values.append((name, _read_secret(name, pointer)))
            except ValueError as error:
                found.faults.append(str(error))
                found.faulty.add(canonical)
    if not values:
        return None
    name, first = values[0]
    for other, value in values[1:]:
        if value.raw != first.raw:
            found.warnings.append(f"{other} ({value.origin}): not used, because {name} is set too")
    return first if name == canonical else first._replace(origin=f"{first.origin}, as {name}")


def _read_secret(name: str, pointer: Given) -> Given:
    """The only content of the file that *pointer* names. Raises ValueError with the whole line for a person."""
    origin = f"file {pointer.raw}, named by {name}_FILE in {pointer.origin}"
    try:
        text = _read_text(str(pointer.raw), _SECRET_LIMIT).strip()
        if not text:
            raise ValueError("is empty")
    except ValueError as error:
        raise ValueError(f"{name} ({origin}): {error}; expected a file that holds only the value") from error
    return Given(text, origin)


def _read_text(path: str, limit: int) -> str:
    """A file as text. Raises ValueError that says what is wrong with the file, and nothing of what is in it."""
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(limit + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    if len(raw) > limit:
        raise ValueError("is too large")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error


def _read_config(path: str, found: Gathered) -> dict[str, Given]:
    """Keys of the TOML file in upper case; a fault and nothing when the file as a whole cannot be used."""
    faults = found.faults
    try:
        table = tomllib.loads(_read_text(path, _CONFIG_LIMIT))
    except (ValueError, RecursionError) as error:
        what = f"is not TOML: {error}" if isinstance(error, tomllib.TOMLDecodeError) else str(error)
        faults.append(f'{CONFIG_FILE} ({path}): {what}; expected a readable file of lines such as LOG_LEVEL = "info"')
        found.faulty.add(CONFIG_FILE)
        return {}
    written: dict[str, Given] = {}
    for key, value in table.items():
        name = key.upper()
        text = _as_text(value)
        if text is None:
            faults.append(f"{key} (file {path}): is a table or a date; expected text, a number, a flag or a list")
        elif name in written:
            faults.append(f"{key} (file {path}): is there twice, in other letters; expected once")
        elif text not in ("", ()):
            written[name] = Given(text, f"file {path}")
    return written


def _as_text(value: object) -> str | tuple[str, ...] | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    if isinstance(value, list) and all(isinstance(part, (str, int)) for part in value):
        return tuple(str(part) for part in value)
    return None


def _unknown(name: str, origin: str, known: Iterable[str]) -> str:
    # The prefix that all share would make any two names look alike.
    cores = {each.removeprefix(_PREFIX): each for each in sorted(known)}
    near = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), cores, n=1)
    hint = f"did you mean {cores[near[0]]}?" if near else "'poller check' lists those that there are"
    return f"{name} ({origin}): no setting has this name, so it has no effect; {hint}"
