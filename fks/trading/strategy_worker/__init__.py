"""A strategy worker: sealed bars in, signals out, with crash attribution for the strategies that it runs."""
