"""Conversion between rows and messages: requests become lines, answers and events become rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.fields import FieldError, read
from fks.bridge.ninja.session import Prepared
from fks.bridge.ninja.signals import LinkSignalState
from fks.model.ninja import NinjaEvent, RequestKind, RequestRecord, RequestState

MS_NS: Final = 1_000_000
#: Code of a signal whose outcome the bridge cannot know any more: it is not asked about again.
JOURNAL_LOST: Final = "journal_lost"
_AT_MS_MAX: Final = 7_258_118_400_000  # 2200-01-01: a bridge's clock may be wrong, and a row must hold its time
_PRICES: Final = ("price", "stop_price", "sl_points", "sl_price", "tp_points", "tp_price")
_HALTS: Final = frozenset({"halted", "trading_disabled"})
_CLASSES: Final[Mapping[RequestKind, type[m.LinkRequest]]] = {
    RequestKind.CANCEL: m.Cancel,
    RequestKind.MODIFY: m.Modify,
    RequestKind.FLATTEN: m.FlattenRequest,
    RequestKind.KILL: m.Kill,
    RequestKind.RESUME: m.Resume,
    RequestKind.STATUS: m.GetStatus,
    RequestKind.QUERY: m.Query,
}


@dataclass(frozen=True, slots=True)
class RequestChange:
    """The new state of a request's row. `is_final`: with the time of the answer. `answer` None: as before."""

    id: str
    state: RequestState
    answer: Mapping[str, Any] | None = None
    code: str = ""
    detail: str = ""
    is_final: bool = True


def message_of(record: RequestRecord, *, has_lots: bool = False) -> m.SignalMessage | m.LinkRequest:
    """Return the message of a request; a signal's times are those of our clock. `has_lots`: its quantity is in lots.

    Errors: FieldError, and ValueError for a price that is no number: no message can be made of the row.
    """
    request = record.request
    body = m.with_lots(request.body) if has_lots else request.body
    found = {key: _decimal(key, value) for key, value in body.items()}
    if request.kind is not RequestKind.SIGNAL:
        return read(_CLASSES[request.kind], {**found, "rid": request.id})
    if request.valid_until_ns is None:
        raise FieldError("missing_field", "valid_until")
    found.setdefault("created_ms", record.created_ns // MS_NS)
    return read(m.SignalMessage, {**found, "id": request.id, "valid_until": request.valid_until_ns // MS_NS})


def _decimal(key: str, value: object) -> object:
    if key not in _PRICES or not isinstance(value, str):
        return value
    try:
        return Decimal(value)
    except InvalidOperation:
        raise FieldError("bad_field", f"{key}: {value[:40]!r} is no number") from None


def prepared_of(record: RequestRecord) -> Prepared | None:
    """Return the signal that an earlier process committed and may have sent; None where there is none."""
    if record.request.kind is not RequestKind.SIGNAL or record.line is None or record.bridge_epoch is None:
        return None
    found = strict_json.loads(record.line.strip())
    valid_until = found["valid_until"]
    assert isinstance(valid_until, int)
    return Prepared(record.request.id, record.line, record.bridge_epoch, valid_until, found.get("action") == "exit")


def outcome_of_signal(event: o.SignalChanged, *, is_same_journal: bool) -> RequestChange | None:
    """Return what a change of a signal makes of its row; None: nothing.

    `is_same_journal`: the bridge still has the journal for which the line was made. Only then its not knowing the
    signal proves that no order was made.
    """
    answer = None if event.message is None else m.as_object(event.message)
    detail = str((answer or {}).get("detail") or "")
    match event.state:
        case LinkSignalState.ACKED:
            return RequestChange(event.id, RequestState.ACKED, answer, event.code, detail)
        case LinkSignalState.NACKED:
            return RequestChange(event.id, RequestState.NACKED, answer, event.code, detail)
        case LinkSignalState.INDETERMINATE:
            return RequestChange(event.id, RequestState.INDETERMINATE, answer, event.code, detail, is_final=False)
        case LinkSignalState.UNANSWERED:
            text = "the connection was lost before an answer; the bridge is asked once it is back"
            return RequestChange(event.id, RequestState.UNANSWERED, None, "disconnected", text, is_final=False)
        case LinkSignalState.QUERIED:
            text = "no answer yet; the bridge is asked for its state"
            return RequestChange(event.id, RequestState.UNANSWERED, None, "queried", text, is_final=False)
        case LinkSignalState.RETRYABLE if event.code in _HALTS:
            # sent again after a resume, it would trade on a decision from before the halt
            return RequestChange(event.id, RequestState.NACKED, answer, event.code, detail)
        case LinkSignalState.RETRYABLE:
            return RequestChange(event.id, RequestState.SENDING, answer, event.code, detail, is_final=False)
        case LinkSignalState.DROPPED if is_same_journal:
            text = "the bridge has no order of it, and it is not sent again"
            return RequestChange(event.id, RequestState.EXPIRED, answer, "expired", text)
        case LinkSignalState.DROPPED:
            text = "the bridge's journal is another one: whether it was executed is seen at the platform alone"
            return RequestChange(event.id, RequestState.UNANSWERED, answer, JOURNAL_LOST, text, is_final=False)
        case _:
            return None


def outcome_of_request(event: o.Answered | o.NotAnswered) -> RequestChange:
    """Return what the answer to a request other than a signal makes of its row."""
    if isinstance(event, o.NotAnswered):
        text = "its effect is not known; look at the next status and repeat it if needed"
        return RequestChange(event.request.rid, RequestState.UNANSWERED, None, event.reason, text, is_final=False)
    message = event.message
    answer = m.as_object(message)
    if isinstance(message, m.ResultMessage) and not message.ok:
        return RequestChange(message.rid, RequestState.NACKED, answer, message.code or "", message.detail or "")
    code = message.code or "" if isinstance(message, m.ResultMessage | m.SigState) else ""
    return RequestChange(event.request.rid, RequestState.ACKED, answer, code)


def row_of_event(event: m.LogEvent) -> NinjaEvent:
    """Return the row of an event of the log."""
    account, signal_id = event.fields.get("account"), event.fields.get("id")
    return NinjaEvent(
        event.epoch,
        event.seq,
        event.kind,
        account if isinstance(account, str) else None,
        signal_id if isinstance(signal_id, str) else None,
        event.fields,
        min(event.at_ms, _AT_MS_MAX) * MS_NS,
    )
