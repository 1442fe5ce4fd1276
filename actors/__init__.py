"""Thin plain classes around library objects: mailbox, heartbeat and life cycle. Only `system` imports Ray."""
