"""The refusals of the wire: code, HTTP status and the exact text, which clients match on."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """A refusal. `data` is what cancel-replace adds; `headers` go out with the answer (Retry-After)."""

    def __init__(
        self,
        code: int,
        text: str,
        *,
        status: int = 400,
        data: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.status = status
        self.data = data
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """Return the JSON object of the answer."""
        found: dict[str, object] = {"code": self.code, "msg": self.text}
        if self.data is not None:
            found["data"] = self.data
        return found


DECIMAL_RANGE = "^([0-9]{1,20})(\\.[0-9]{1,20})?$"
CLIENT_ID_RANGE = "^[a-zA-Z0-9-_]{1,36}$"

#: name -> (code, text, status). One row per refusal that needs no argument.
_PLAIN: dict[str, tuple[int, str, int]] = {
    "skewed": (-1021, "Timestamp for this request is outside of the recvWindow.", 400),
    "ahead": (-1021, "Timestamp for this request was 1000ms ahead of the server's time.", 400),
    "bad_signature": (-1022, "Signature for this request is not valid.", 400),
    "bad_key_format": (-2014, "API-key format invalid.", 401),
    "bad_key": (-2015, "Invalid API-key, IP, or permissions for action.", 401),
    "bad_symbol": (-1121, "Invalid symbol.", 400),
    "bad_interval": (-1120, "Invalid interval.", 400),
    "bad_tif": (-1115, "Invalid timeInForce.", 400),
    "bad_type": (-1116, "Invalid orderType.", 400),
    "bad_side": (-1117, "Invalid side.", 400),
    "bad_resp_type": (-1122, "Invalid newOrderRespType.", 400),
    "bad_combination": (-1128, "Combination of optional parameters invalid.", 400),
    "bad_recv_window": (-1131, "recvWindow must be less than 60000.", 400),
    "no_funds": (-2010, "Account has insufficient balance for requested action.", 400),
    "duplicate": (-2010, "Duplicate order sent.", 400),
    "would_take": (-2010, "Order would immediately match and take.", 400),
    "would_trigger": (-2010, "Stop price would trigger immediately.", 400),
    "bad_oco_prices": (-2010, "The relationship of the prices for the orders is not correct.", 400),
    "no_oco": (-2010, "OCO orders are not supported for this symbol", 400),
    "no_oto": (-2010, "OTO orders are not supported for this symbol.", 400),
    "no_opo": (-2010, "OPO orders are not supported for this symbol.", 400),
    "opo_buys": (-1222, "Working order in an OPO list must be a bid.", 400),
    "opo_sells": (-1223, "Pending orders in an OPO list must be asks.", 400),
    "opo_quantity": (-1225, "Pending orders should not include the 'pendingQuantity' tag.", 400),
    "market_closed": (-1013, "Market is closed.", 400),
    "unknown_order": (-2011, "Unknown order sent.", 400),
    "no_order": (-2013, "Order does not exist.", 400),
    "no_list": (-2018, "Order list does not exist.", 400),
    "amend_unknown": (-2038, "Unknown order sent.", 400),
    "amend_duplicate": (-2038, "Duplicate order sent.", 400),
    "amend_unsupported": (-2038, "Order amend is not supported for this symbol.", 400),
    "amend_larger": (-2038, "Order amend (quantity increase) is not supported.", 400),
    "amend_same": (-2038, "The requested action would change no state; rejecting", 400),
    "amend_pending": (-2038, "Order amend (pending OPO order) is not supported.", 400),
    "amend_too_often": (-2038, "Filter failure: MAX_NUM_ORDER_AMENDS", 400),
    "no_reference": (-2043, "This symbol doesn't have a reference price.", 400),
    "busy": (-1008, "Server is currently overloaded with other requests. Please try again in a few minutes.", 503),
    "timeout": (-1007, "Timeout waiting for response from backend server. Send status unknown; execution status "
                       "unknown.", 504),
    "unexpected": (-1000, "An unknown error occurred while processing the request.", 500),
}  # fmt: skip


#: refusals by the book -> the reason in an executionReport (`r`)
_REASONS = {
    "no_funds": "INSUFFICIENT_BALANCES",
    "would_trigger": "STOP_PRICE_WOULD_TRIGGER_IMMEDIATELY",
    "would_take": "WOULD_MATCH_IMMEDIATELY",
}


def reject_reason(error: ApiError) -> str:
    """Return the reason that an executionReport gives for a refusal: NONE for one by a filter."""
    return next((reason for name, reason in _REASONS.items() if _PLAIN[name][1] == error.text), "NONE")


def refusal(name: str) -> ApiError:
    """Return the refusal of that name in the table."""
    code, text, status = _PLAIN[name]
    return ApiError(code, text, status=status)


def missing(parameter: str) -> ApiError:
    """Return −1102 for a mandatory parameter."""
    return ApiError(-1102, f"Mandatory parameter '{parameter}' was not sent, was empty/null, or malformed.")


def illegal(parameter: str, legal: str) -> ApiError:
    """Return −1100 with the legal range."""
    return ApiError(-1100, f"Illegal characters found in parameter '{parameter}'; legal range is '{legal}'.")


def too_precise(parameter: str) -> ApiError:
    """Return −1111."""
    return ApiError(-1111, f"Parameter '{parameter}' has too much precision.")


def not_wanted(parameter: str) -> ApiError:
    """Return −1106."""
    return ApiError(-1106, f"Parameter '{parameter}' sent when not required.")


def filter_failure(name: str) -> ApiError:
    """Return −1013 naming the filter."""
    return ApiError(-1013, f"Filter failure: {name}")
