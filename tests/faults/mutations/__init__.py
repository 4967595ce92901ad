"""Seeded money bugs, by subject: each a patch of the daemon's text, and tests of which at least one must fail on it."""

from __future__ import annotations

from tests.faults.mutations import amounts, deliveries, house, keys, people, settling, verdicts
from tests.faults.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    *settling.MUTATIONS,
    *amounts.MUTATIONS,
    *verdicts.MUTATIONS,
    *deliveries.MUTATIONS,
    *people.MUTATIONS,
    *keys.MUTATIONS,
    *house.MUTATIONS,
)
