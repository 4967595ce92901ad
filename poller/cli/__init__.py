"""The command line: a table of commands, each in a module of its own that is imported only when it is wanted."""

from __future__ import annotations

import importlib
import platform

import click

from poller import __version__

_MODULES = {
    "run": "run",
    "demo": "demo",
    "check": "check",
    "migrate": "migrate",
    "reconcile": "reconcile",
    "status": "status",
    "task": "task",
    "tasks": "tasks",
    "pause": "pause",
    "resume": "pause",
    "trigger": "trigger",
    "healthcheck": "healthcheck",
    "simulate": "simulate",
}
_HELP = {"help_option_names": ["-h", "--help"]}


class _Commands(click.Group):
    """Commands by name; the import of one is put off until it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        command: click.Command = getattr(importlib.import_module(f"poller.cli.{_MODULES[cmd_name]}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as wrong:
            import difflib

            near = difflib.get_close_matches(args[0], _MODULES, n=1)
            if not near:
                raise
            raise click.UsageError(f"{wrong.message} Did you mean '{near[0]}'?", ctx) from wrong


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"poller {__version__} (Python {platform.python_version()})")
        ctx.exit()


@click.command(cls=_Commands, context_settings=_HELP)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def poller() -> None:
    """Settle the asynchronous AI tasks of a new-api gateway: status, refund and ledger, exactly once."""
