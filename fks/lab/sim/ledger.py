"""Balances: free and locked, in atoms, never below zero."""

from __future__ import annotations

from fks.lab.sim.atoms import show
from fks.lab.sim.errors import refusal


class BalanceLedger:
    """Balances of the one account, in memory; `take_changed` returns the changes to write and report."""

    def __init__(self, balances: dict[str, tuple[int, int]]) -> None:
        self._held = {asset: list(pair) for asset, pair in sorted(balances.items())}
        self._changed: set[str] = set()

    def free(self, asset: str) -> int:
        """Return the free amount."""
        return self._held[asset][0]

    def lock(self, asset: str, amount: int) -> None:
        """Set `amount` aside. Errors: −2010 when there is not enough."""
        if self._held[asset][0] < amount:
            raise refusal("no_funds")
        self._move(asset, -amount, amount)

    def unlock(self, asset: str, amount: int) -> None:
        """Give `amount` back to the free balance."""
        self._move(asset, amount, -amount)

    def spend(self, asset: str, amount: int, *, locked: int) -> None:
        """Pay `amount`, of which `locked` comes from the locked balance; more locked than needed is given back."""
        self._move(asset, locked - amount, -locked)

    def receive(self, asset: str, amount: int) -> None:
        """Add `amount` to the free balance."""
        self._move(asset, amount, 0)

    def deposit(self, asset: str, amount: int) -> None:
        """Add `amount` of an asset, which the account may never have held."""
        self._held.setdefault(asset, [0, 0])
        self._move(asset, amount, 0)

    def withdraw(self, asset: str, amount: int) -> None:
        """Take `amount` from the free balance. Errors: −2010 when there is not enough."""
        if self._held.get(asset, [0, 0])[0] < amount:
            raise refusal("no_funds")
        self._move(asset, -amount, 0)

    def _move(self, asset: str, free: int, locked: int) -> None:
        pair = self._held[asset]
        pair[0] += free
        pair[1] += locked
        assert min(pair) >= 0, (asset, pair)
        self._changed.add(asset)

    def take_changed(self) -> list[tuple[str, int, int]]:
        """Return (asset, free, locked) of what changed since the last call."""
        found = [(asset, *self._held[asset]) for asset in sorted(self._changed)]
        self._changed.clear()
        return found  # type: ignore[return-value]

    def rows(self, *, omit_zero: bool = False) -> list[dict[str, str]]:
        """Return the balances as `account` shows them."""
        return [
            {"asset": asset, "free": show(free), "locked": show(locked)}
            for asset, (free, locked) in self._held.items()
            if free or locked or not omit_zero
        ]
