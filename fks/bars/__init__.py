"""Bars: where they lie in time, how they are built from trades and smaller bars, and what makes one valid. Pure."""
