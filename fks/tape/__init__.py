"""Everything a collector receives, kept as it came: what enters are frames and answers, what leaves is the same run
again.

A recorder writes rotating, compressed, checksummed files; a replay hands their frames to the same wires, and so to the
same feeds and bars, at any speed. It knows neither store nor order.
"""
