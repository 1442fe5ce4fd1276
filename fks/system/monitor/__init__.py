"""Metrics, health and alert rules."""
