"""Hypothesis without a deadline for single examples: the machine may be busy with a database next door."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
