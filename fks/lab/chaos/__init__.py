"""Chaos testing: faults planned from a seed, injected from outside, and an auditor that trusts only its own evidence.

The package shares no code with the runtime that it audits. It reads the node file, the rows, the keeper's control
socket
and log, the exchange's own records and the process table, as an operator with a shell would. `plan` and
`audit_evidence` are pure.
"""
