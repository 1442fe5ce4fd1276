"""From opinions at single bars to a wanted position at every bar."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fks.indicators.exact import keep_last
from fks.model.bar import Floats

Flags = npt.NDArray[np.bool_]


def side_to_target(side: Floats, *, short: bool) -> Floats:
    """Return the target of a trend side (1 up, -1 down, 0 unknown): long when up, when down short or flat."""
    return side.copy() if short else np.maximum(side, 0.0)


def hold(enter: Flags, leave: Flags) -> Floats:
    """Return 1 from a bar with `enter` until a bar with `leave`, else 0. Where both are set, `leave` wins."""
    event = np.where(leave, -1.0, np.where(enter, 1.0, 0.0))
    return np.maximum(keep_last(event), 0.0)
