"""Restart policy as pure functions over child specs."""
