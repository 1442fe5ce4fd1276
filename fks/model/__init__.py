"""The bottom room: frozen values that every other room speaks in. Imports the standard library, numpy and nothing of
ours."""
