"""PostgreSQL, Redis and the embedded servers: SQL in named files, values in and out."""
