"""``poller migrate``: schema ``poller`` and the index, made or printed."""

from __future__ import annotations

import click

from poller.cli.reading import opened, read_settings

_PROFILES = ("documented", "fork", "main")


@click.command(short_help="Make schema poller and the index, or print the SQL.")
@click.option("--print", "is_printed", is_flag=True, help="Print the SQL for a DBA instead of running it.")
@click.option(
    "--profile", type=click.Choice(_PROFILES), help="With --print: for this gateway variant, without connecting."
)
def migrate(is_printed: bool, profile: str | None) -> None:
    """Create or upgrade schema poller and the index on active tasks. Doing it twice is harmless."""
    if profile and not is_printed:
        raise click.UsageError("--profile goes with --print; otherwise the database tells")

    import anyio

    if is_printed:
        from poller.postgres.migrate import plan

        click.echo(plan(profile or anyio.run(_detected)), nl=False)
    else:
        anyio.run(_migrate)


async def _detected() -> str:
    from poller.postgres.profile import detect

    settings = read_settings().settings
    async with opened(settings, "migrate") as database:
        return (await detect(database, settings.schema)).name


async def _migrate() -> None:
    from poller.postgres import migrate as migrations
    from poller.postgres.home import see_home
    from poller.postgres.profile import detect

    settings = read_settings().settings
    async with opened(settings, "migrate") as database:
        found = await detect(database, settings.schema)
        done = await migrations.migrate(database, found.name)
        await see_home(database)
    applied = ", ".join(done.applied) or "up to date"
    click.echo(f"profile {found.name} ({found.why})")
    click.echo(f"schema poller: {applied}")
    click.echo(f"index on active tasks: {done.index.replace('_', ' ')}")
