"""Portfolio: fills to positions, and nothing else to positions. Pure; in come fills, out come positions and realised
profit."""
