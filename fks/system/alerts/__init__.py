"""Rules of alerts, and their delivery to persons."""
