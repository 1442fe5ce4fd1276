"""The keeper: the parent of PostgreSQL, Redis, the local exchange and Ray's head; what `fks up` runs.

It starts them together, brings the schema and the actor tree up once they answer, restarts each that dies, and stops
all in order. Killed with -9 it leaves its children running (each has a session of its own), and the next `fks up` finds
them in `run/keeper.json` or by their command lines and continues with them. Nothing is ever started twice: a lock on
`run/keeper.lock` admits one keeper per FKS_HOME.

It handles processes, sockets and rows of `component_health`; it imports neither Ray nor an exchange library, and leaves
everything that needs heavy imports (migrations, deploying the tree) to short-lived processes of its own.
"""
