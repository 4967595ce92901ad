"""Everything on one machine, nothing to set up: embedded PostgreSQL, a simulated upstream, seeded users and tasks."""
