"""The driver of supervision: it runs child processes, reads heartbeats, deploys and records the history of the tree."""
