"""Scopes of a kill: each counts for exactly what lies in it, and the strongest of several decides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fks.model.kill import EngagedKill, KillMode, Kills, KillScope, ScopeKind, resume_command, strongest
from fks.trading.risk.policy import Action, Allow, Circumstances, allowed

VENUES, ACCOUNTS, STRATEGIES = ("ccxt", "ninja:demo"), (1, 2), ("sma", "rsi")
INSTANCES = {"": "", "sma-btc": "sma", "sma-eth": "sma", "rsi-btc": "rsi"}
PLACES = st.tuples(st.sampled_from(VENUES), st.sampled_from(ACCOUNTS), st.sampled_from(list(INSTANCES)))
SCOPES = [
    KillScope(),
    *(KillScope(ScopeKind.VENUE, name) for name in VENUES),
    *(KillScope(ScopeKind.ACCOUNT, str(id)) for id in ACCOUNTS),
    *(KillScope(ScopeKind.STRATEGY, name) for name in (*STRATEGIES, *filter(None, INSTANCES))),
]
KILLS = st.lists(
    st.builds(EngagedKill, st.just("k"), st.sampled_from(SCOPES), st.sampled_from([KillMode.HELD, KillMode.FLATTEN])),
    max_size=4,
).map(Kills)


def lies_in(scope: KillScope, venue: str, account_id: int, instance: str) -> bool:
    """Say it once more, kind by kind."""
    names = {
        ScopeKind.SYSTEM: {""},
        ScopeKind.VENUE: {venue},
        ScopeKind.ACCOUNT: {str(account_id)},
        ScopeKind.STRATEGY: {instance, INSTANCES[instance]} - {""},
    }
    return scope.name in names[scope.kind]


@given(kills=KILLS, place=PLACES)
def test_an_engaged_scope_stops_exactly_what_lies_in_it(kills: Kills, place: tuple[str, int, str]) -> None:
    over = kills.over(*place, INSTANCES[place[2]])
    inside = [kill for kill in kills if lies_in(kill.scope, *place)]
    assert list(over) == inside
    assert over.mode is strongest(kill.mode for kill in inside)
    for action in (Action.ENTRY, Action.EXIT, Action.LEG):
        is_free = isinstance(allowed(action, Circumstances(over.mode)), Allow)
        modes = {kill.mode for kill in inside}
        stopping = modes if action in (Action.ENTRY, Action.EXIT) else modes & {KillMode.FLATTEN}
        assert is_free is not bool(stopping)


def test_a_scope_is_read_back_from_its_text_and_any_other_text_is_the_whole_system() -> None:
    assert [KillScope.parse(str(scope)) for scope in SCOPES] == SCOPES
    for text in ("", "system", "all", "venue:", "system:x", "pair:BTCUSDT", "Venue:ccxt"):
        assert KillScope.parse(text).is_system
    assert KillScope.parse("venue:ninja:demo") == KillScope(ScopeKind.VENUE, "ninja:demo")
    assert [resume_command(text) for text in ("system", "venue:ccxt")] == ["fks resume", "fks resume --venue ccxt"]
