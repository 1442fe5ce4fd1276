"""Settings and secrets: what a node is told before it starts. Rooms get values; they never read the environment."""
