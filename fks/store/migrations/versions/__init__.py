"""One module per step, oldest first. A released step is never edited."""
