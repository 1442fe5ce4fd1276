"""Chaos on purpose: faults planned from a seed, performed from outside, and an auditor that believes nobody.

The room shares no code with the runtime it judges: it reads the node file, the rows, the keeper's door and log, the
exchange's own records and the process table, as an operator with a shell would. `plan` and `judge` are pure.
"""
