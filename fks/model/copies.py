"""Trade copying at NinjaTrader: which accounts repeat the signals of the account of venue `ninja`, and how large. Pure.

The leader is the account of the venue `ninja` (`ninja.account`). Each table `[ninja.accounts.NAME]` is one more
account, with a venue session of its own under the name `ninja:NAME`.
"""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, Decimal
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

LEADER: Final = "ninja"  # the venue whose signals are repeated
#: The instance under which a strategy's copies are held: `copy:<instance>`, so that its exit closes them alone.
PREFIX: Final = "copy:"
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LINE: Final = re.compile(r"(?P<name>\S+)\s+(?P<size>\d+(?:\.\d+)?)(?P<ratio>x?)(?:\s+(?P<mode>\S+))?")
_MODES: Final[dict[str, Literal["auto", "relay", "off"]]] = {
    "auto": "auto", "automated": "auto", "relay": "relay", "off": "off",
}  # fmt: skip
_ONE: Final = Decimal(1)
FORM: Final = "'NAME 0.5x auto' (half of the signal's contracts) or 'NAME 2 relay' (two contracts, shown to a person)"


class CopyRule(BaseModel):
    """The rule by which one account repeats a signal. `size`: a factor of the signal's contracts if `is_ratio`, else
    contracts.

    `mode`: auto trades; relay shows the signal to a person at the platform; off repeats nothing.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    size: Decimal
    is_ratio: bool
    mode: Literal["auto", "relay", "off"] = "auto"

    @property
    def venue(self) -> str:
        """Return the name of the account's venue session."""
        return venue_of(self.name)

    def contracts(self, quantity: Decimal | None) -> Decimal:
        """Return the whole contracts that repeat `quantity` contracts, rounded down; 0 when a ratio has nothing to be
        taken of."""
        if not self.is_ratio:
            return self.size
        if quantity is None:
            return Decimal(0)
        return (abs(quantity) * self.size).quantize(_ONE, ROUND_DOWN)

    def __str__(self) -> str:
        return f"{self.name} {self.size:f}{'x' if self.is_ratio else ''} {self.mode}"


def venue_of(name: str) -> str:
    """Return the venue of an account's table `[ninja.accounts.NAME]`."""
    return f"{LEADER}:{name}"


def is_ninja(venue: str) -> bool:
    """Return whether a venue is an account at NinjaTrader."""
    return venue == LEADER or venue.startswith(f"{LEADER}:")


def copied_instance(instance: str) -> str:
    """Return the strategy instance whose copies an instance's name stands for; "" for other names."""
    return instance.removeprefix(PREFIX) if instance.startswith(PREFIX) else ""


def expected(rule: CopyRule, leader: Decimal, held: Decimal) -> Decimal:
    """Return what a follower should hold, signed contracts, while the leader holds `leader` and it holds `held`.

    By a ratio it is the leader's share, rounded down. With fixed contracts for each signal only the side is known: what
    is held on the leader's side is right, however many entries made it.
    """
    if leader == 0:
        return Decimal(0)
    sign = 1 if leader > 0 else -1
    if rule.is_ratio:
        return sign * rule.contracts(leader)
    return held if held * sign > 0 else sign * rule.size


def parse_rule(text: str) -> CopyRule:
    """Return the rule in 'NAME SIZE [MODE]'; the mode is auto unless given. Errors: ValueError naming a valid form."""
    found = _LINE.fullmatch(text.strip())
    mode = None if found is None else _MODES.get(found["mode"] or "auto")
    if found is None or mode is None or NAME.fullmatch(found["name"]) is None:
        raise ValueError(f"{text!r} is no rule for copies: write {FORM}")
    size, is_ratio = Decimal(found["size"]), bool(found["ratio"])
    if size <= 0 or (not is_ratio and size % 1):
        raise ValueError(f"{text!r}: a ratio is above 0, and contracts are whole: write {FORM}")
    return CopyRule(name=found["name"], size=size, is_ratio=is_ratio, mode=mode)
