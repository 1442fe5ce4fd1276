"""Settings and secrets of a node. Other packages get values; they never read the environment.

One table of settings, with a limit and a sentence for each, from a file, the environment and defaults. A wrong value
ends the start with one message that says which, where and what to do; secrets never appear in it.

- settings, risk, load, reference: what may be set, how it is read, how it is documented
- secrets, credentials, endpoints: secrets and their checks; check: what must not start
- paths, builds, version: the folders of a node and the build that runs

Imported by: ai, store, lab, system, market, trading, data, research, interfaces
Begin with: `settings.py`
Most important: `load.py`, `secrets.py`, `check.py`
"""
