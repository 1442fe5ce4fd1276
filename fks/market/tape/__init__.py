"""Tapes: recordings of every frame and REST answer that a collector receives, and their replay.

A recorder writes rotating, compressed, checksummed files. A replay passes their frames to the same wires, and so to the
same feeds and bars, at any speed. The package knows neither the store nor orders.
"""
