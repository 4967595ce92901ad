"""The gateway's database and our own tables in it. The SQL lies in ``sql/<profile>/`` and ``sql/own/``."""
