"""Keys of venues in the processes that carry an account."""
