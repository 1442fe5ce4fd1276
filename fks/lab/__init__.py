"""The laboratory: a local exchange to trade against, and chaos testing of a running system.

Both share as little code with the tested system as they can: a simulator that reuses a codec agrees with its faults,
and an auditor that reuses a rule agrees with its mistakes. The exceptions are named in the import contracts. The
command line starts both; no process of production imports them.

- sim: exchanges and platforms on their own wires, with faults on demand
- chaos: faults planned from a seed and injected from outside, and an auditor that trusts only its own evidence

Imported by: interfaces
Begin with: `sim/server.py`
Most important: `sim/engine.py`, `chaos/run.py`, `chaos/auditor.py`
"""
