"""Durable work as rows in PostgreSQL."""
