"""The embedded PostgreSQL and Redis: their programs, directories and child processes."""
