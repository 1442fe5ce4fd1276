"""Settings and secrets of a node. Other packages get values; they never read the environment."""
