"""Numbers on the command line, called what a person calls them."""

from __future__ import annotations

import click


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"

    def get_metavar(self, *_: object, **__: object) -> str:
        """How the help shows it."""
        return "N"


class Decimal(click.FloatRange):
    """A number within bounds."""

    name = "number"

    def get_metavar(self, *_: object, **__: object) -> str:
        """How the help shows it."""
        return "N"
