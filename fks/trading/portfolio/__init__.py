"""Portfolio: positions from fills only. Pure; in come fills, out come positions and realised profit."""
