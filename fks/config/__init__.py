"""Settings and secrets of a node: other packages get values, not names of variables.

One table of settings, with a limit and a sentence for each, from a file, the environment and defaults. A wrong value
ends the start with one message that says which, where and what to do; secrets never appear in it.

- settings, risk, load, reference: the table of settings, its reading and its documentation
- secrets, credentials, endpoints: secrets and their checks; check: refusals of an unsafe start
- paths, builds, version: the folders of a node and the build that runs

Imported by: ai, store, lab, system, market, trading, data, research, interfaces
Begin with: `settings.py`
Most important: `load.py`, `secrets.py`, `check.py`
"""
