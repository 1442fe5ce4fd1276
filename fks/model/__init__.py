"""Shared values and ports: frozen types that every other package uses. Imports the standard library and numpy."""
