"""`python -m fks.bridge.mt5`: the agent, on a machine that has nothing else of FKS."""

import sys

from fks.bridge.mt5.agent import main

sys.exit(main())
