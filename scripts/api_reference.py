"""The generated parts of docs/api.md: routes, problem codes, denial codes and metrics, from the tables the code runs
on.

`python scripts/api_reference.py` rewrites them; a test fails when they are out of date.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from fks.interfaces.api.app import table
from fks.model.codes import ENDS_RESTING, MEANING, REDUCE_ONLY_APPLIES
from fks.model.metrics import METRICS

FILE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
#: Every problem code that is not a denial code, with its meaning. Append-only: programs decide by them.
PROBLEMS: dict[str, str] = {
    "UNAUTHORIZED": "401: no token, or one that is unknown or revoked; or a spent ticket",
    "SCOPE_MISSING": "403: the token's scope does not reach this route",
    "TOTP_MISSING": "403: the user needs a second factor for this scope; nothing else lacks",
    "ACCOUNT_SCOPE": "403: the caller is bound to accounts, and this route is about all of them",
    "ORIGIN_FORBIDDEN": "403: a browser page of another origin tried to open a socket or to change something",
    "CSRF": "403: a change by a browser's session came without its `X-CSRF-Token`",
    "HOST_FORBIDDEN": "421: the `Host` header names another server; `http.allowed_hosts` lists further names",
    "PROXY_ONLY": "403: the gateway listens for its proxy (`http.trusted_proxies`) and this host alone",
    "LOGIN_FAILED": "401: the user, the password or the code is wrong",
    "LOGIN_LOCKED": "429: five failed logins lock the account and the address for an hour; see `Retry-After`",
    "TOTP_REQUIRED": "401: the password is right, and the user has a second factor: send its code as `totp`",
    "TOTP_EXISTS": "409: a second factor is set up already, or there is none to confirm",
    "TOTP_UNREADABLE": "409: the second factor was stored under another session key",
    "REFRESH_INVALID": "401: the refresh token is unknown, or its session has ended",
    "REFRESH_REUSED": "401: the refresh token was used before (30 s ago, or its successor too): its session is ended",
    "NOT_A_USER": "409: the route is for a user's session, and the caller is a token",
    "PASSWORD_WEAK": "422: the new password is too short, or too easily guessed",
    "USER_EXISTS": "409: a user has this name",
    "USER_UNKNOWN": "404: no user has this name",
    "RATE_LIMITED": "429: more requests than the limit of an hour; `Retry-After` says when the next one is served",
    "LIMITS_UNKNOWN": "503: Redis keeps the limits and is away; nothing was changed. Orders are taken all the same",
    "TOO_MANY_FAILURES": "429: this address showed too many wrong tokens; `Retry-After` says how long",
    "NOT_FOUND": "404: no such path",
    "METHOD_NOT_ALLOWED": "405: the path has other methods; `Allow` names them",
    "JSON_MALFORMED": "400: the body is not strict JSON (NaN, a repeated key and the like included)",
    "JSON_DEPTH": "400: the body has more than 64 levels of lists and objects; it was not read",
    "JSON_NUMBER": "400: a number in the body has more than 50 digits, or is not between 1e-50 and 1e50 in size",
    "BODY_TOO_LARGE": "413: the body is longer than 256 KiB",
    "HEAD_TOO_LARGE": "431: the address and the headers are longer than 64 KiB; the connection is closed",
    "BODY_SLOW": "408: the body did not arrive within `http.body_timeout_s`",
    "INVALID": "422: a value does not fit; `errors` lists every place",
    "UNAVAILABLE": "503: PostgreSQL or Redis does not answer; nothing was changed unless a repeat with the same key "
    "says so",
    "INTERNAL": "500: the gateway failed; the log has it under the answer's `X-Request-ID`",
    "FAILED": "500: a part failed and said why",
    "SYMBOL_UNKNOWN": "404: no instrument has this spelling",
    "CONTRACT_EXPIRED": "422: an entry in a futures contract that is expired or rolled; the remedy names another",
    "SYMBOL_AMBIGUOUS": "400: several exchanges have it, and nothing says which one is meant; name it with "
    "`exchange`, or write `exchange:SYMBOL`",
    "TIMEFRAME_UNKNOWN": "400: no such timeframe",
    "TIME_INVALID": "422: not an ISO 8601 time",
    "TIME_NAIVE": "400: a time without a zone",
    "NO_DATA": "404: nothing is stored of this symbol, and nothing was received of it",
    "IDEMPOTENCY_KEY_MISSING": "400: the `Idempotency-Key` header is there and empty",
    "IDEMPOTENCY_KEY": "422: the `Idempotency-Key` is not usable",
    "IDEMPOTENCY_CONFLICT": "409: the key was used for another body",
    "IDEMPOTENCY_RUNNING": "409: the first call with this key is still running; `Retry-After` says when to ask again",
    "IDEMPOTENCY_UNKNOWN": "409: the first call with this key has no answer after a minute, or failed midway: look at "
    "what it was to change, and use a new key if it did not",
    "PART_DOWN": "503: a part of the system that the call needs is down; `part` names it; nothing was changed",
    "FIELD_UNKNOWN": "422: the order has an unknown field",
    "QUANTITY": "422: the quantity is missing",
    "NUMBER": "422: not a positive, finite decimal number of at most 40 digits; of a parameter, one beyond 50 digits",
    "PRICE": "422: the order type needs this price, or takes none",
    "SYMBOL": "422: the symbol is missing",
    "SIDE": "422: neither buy nor sell",
    "TYPE": "422: no such order type",
    "TIME_IN_FORCE": "422: no such time in force",
    "VALID_UNTIL": "422: not an ISO 8601 time",
    "ACCOUNT": "422: not usable as an account",
    "VENUE": "422: not usable as a venue",
    "EXCHANGE": "422: not usable as an exchange, or not the one that the symbol or the account's venue names",
    "EXCHANGE_UNKNOWN": "404: there is no exchange of this name",
    "ACCOUNT_EXISTS": "409: the account's name is taken",
    "PAYMENT_CHANGED": "409: another payment of the account and kind has this reference",
    "PAYMENT_WRONG": "422: income cannot be recorded like this",
    "ACCOUNT_TIED": "409: the account had its first session; its mode is fixed with its identity",
    "ORDER_UNKNOWN": "404: no order, and no request for one, has this id",
    "WEBHOOK_UNAUTHORIZED": "401: no webhook has this secret or signature",
    "WEBHOOK_SENDER": "403: the webhook takes messages of TradingView's addresses alone",
    "WEBHOOK_TIME": "422: the message has no time, or is older than 60 s",
    "WEBHOOK_SYMBOL": "422: the webhook may not trade this symbol",
    "WEBHOOK_SIZE": "422: the quantity is missing, or more than the webhook may name",
    "WEBHOOK_CONFIDENCE": "422: the signal's confidence is too low",
    "WEBHOOK_QUOTA": "429: the webhook's messages of this hour are used up; one that fails counts, too",
    "WEBHOOK_KEY": "503: the webhooks were made with another session key than this gateway's",
    "CREDENTIAL_UNKNOWN": "404: the account has no stored key of this role",
    "CREDENTIAL_EXISTS": "409: the account has a stored key of this role: rotate it",
    "CREDENTIAL_SAME": "409: this key is stored already, in use or for the other role",
    "CREDENTIAL_CHANGED": "409: another key of the account was stored meanwhile",
    "CREDENTIAL_WRONG": "422: the account's venue has no keys, or the text cannot be one",
    "KEY_REFUSED": "422: the venue refuses the key",
    "WEBHOOK_EXISTS": "409: a webhook has this name",
    "PORTFOLIO_UNKNOWN": "404: no portfolio has this number or name",
    "PORTFOLIO_EXISTS": "409: a portfolio has this name, perhaps an archived one",
    "PORTFOLIO_MEMBER": "409: a holding of the account or instance is in a portfolio already",
    "PORTFOLIO_VERSION": "409: the portfolio was changed since the version that the change names",
    "PORTFOLIO_ARCHIVED": "409: an archived portfolio does not change",
    "PORTFOLIO_WRONG": "422: a portfolio cannot be made, changed or read like this",
    "ATTRIBUTION_MISSING": "404: the portfolio has no two complete hours with the same members in the period",
    "VALUATION_MISSING": "404: the portfolio has no complete hour up to that moment",
    "PORTFOLIO_RUNNING": "409: the portfolio is being rebalanced: wait for the run, or cancel it",
    "TARGETS_MISSING": "404: the portfolio has no targets yet",
    "TARGETS_WRONG": "422: targets cannot be set like this",
    "TARGETS_MIXED": "422: an instrument and a strategy instance that trades it on the same account both have a weight",
    "VENUE_CHANGED": "409: the venue or the route was changed since it was read",
    "VENUE_WRONG": "422: a venue or a route cannot be changed like this",
    "ROUTE_UNKNOWN": "404: no such pattern of instruments has venues",
    "ROUTES_FULL": "409: there are 200 routes of venues",
    "JOURNAL_UNKNOWN": "404: the trade journal has no such entry",
    "JOURNAL_VERSION": "409: the notes of an entry were changed since they were read",
    "JOURNAL_WRONG": "422: notes of an entry cannot be changed like this",
    "REPORT_UNKNOWN": "404: no such report is stored",
    "REPORT_SENT": "409: the report was sent to the channel, or waits for it",
    "REPORT_OLD": "409: the notice of the report is deleted",
    "TRIGGER_WRONG": "409: schedules do not rebalance the portfolio, or it has no targets",
    "ALLOCATION_UNKNOWN": "404: the portfolio has no allocation with this id",
    "ALLOCATION_WRONG": "422: options of an allocation do not fit its method or its instruments",
    "ALLOCATION_INPUTS": "422: the method cannot use these returns or instruments",
    "ALLOCATION_INFEASIBLE": "422: no weights meet the constraints; the answer names those in conflict",
    "AI_NOT_INSTALLED": "501: the library of the model is not installed: the extra `ai`; or pgvector in PostgreSQL",
    "AI_DEPLOYMENT": "422: a language model cannot be served like this",
    "AI_DEPLOYMENT_UNKNOWN": "404: no language model has this name",
    "AI_CONSENT_UNKNOWN": "404: no consent was given for this collection and purpose",
    "AI_BROKEN_OFF": "event `error` of a streamed answer: the process of the model ended after a token was sent",
    "AI_BUSY": "503: each replica of the language model has as many requests as it keeps; with Retry-After",
    "AI_AWAY": "503 below `/v1`: the model does not serve; the message has its state; with Retry-After",
    "AI_ENDED": "503 below `/v1`: the processes of the model ended before they wrote anything; with Retry-After",
    "AI_LATE": "504 below `/v1`: the model did not answer within `ai.answer_timeout_s`; not to be repeated",
    "AI_FAILED": "502 below `/v1`: the engine of the model failed; not to be repeated",
    "AI_FORM": "502 below `/v1`: a whole text does not fit `response_format`; not to be repeated",
    "AI_SCHEMA": "400 below `/v1`: a keyword of the schema is not kept; the message names it",
    "CONTEXT_LENGTH_EXCEEDED": "400 below `/v1`: the messages do not fit into the context of the model",
    "MODEL_NOT_FOUND": "404 below `/v1`: no model of this name is deployed",
    "NO_KNOWN_WORD": "400 below `/v1`: the built-in embedder knows no word of a text",
    "UNSUPPORTED_PARAMETER": "400 below `/v1`: no engine honours the parameter that `param` names",
    "EMBEDDER_AWAY": "503: no embedder is built yet, or no process of it answers; with Retry-After",
    "EMBEDDER_OTHER": "409: another model or version of an embedder is in force",
    "FORECAST_UNKNOWN": "404: no model of forecasts, or no such version of it",
    "FORECAST_MARKET": "409: the model is of another exchange or timeframe",
    "TRAINER_UNKNOWN": "422: no trainer of this name is installed; what there is is in the detail",
    "TRAINER_UNSCHEDULABLE": "409: the trainer needs a GPU, and none was free for the process that would train",
    "TRAINER_FAILED": "422: the trainer of another package raised an error, or made no model of an allowed format",
    "ARTIFACT_WRONG": "409: the file of the model is not the one that was trained",
    "ALLOCATION_LIBRARY": "501: the method needs the extra `allocation`, which is not installed",
    "COVERAGE_LOW": "422: too few bars of an instrument are stored in the window",
    "PLAN_UNKNOWN": "409: no preview of the portfolio has this hash",
    "PLAN_USED": "409: the run of this plan has ended or was cancelled; no order is made twice",
    "PLAN_EXPIRED": "409: the preview is older than 60 s, or an automatic plan than `run_max_age_s`",
    "PLAN_OUTDATED": "409: targets or members were changed since the preview",
    "PRICE_MOVED": "409: a price moved beyond the tolerance since the preview, or is not known any more",
    "RUN_UNKNOWN": "404: the portfolio has no run with this id",
    "RUN_ENDED": "409: the run has ended",
    "WEBHOOK_UNKNOWN": "404: no webhook has this name",
    "WEBHOOK_WRONG": "422: a webhook cannot be made like this",
    "SIZE_WRONG": "422: the size of a signal is missing, given twice, or cannot be computed from its risk",
    "ACTION": "422: no such action",
    "ORDER_NOT_YET": "409: the request has not become an order yet",
    "ORDER_NOT_UNKNOWN": "409: only an order of unknown outcome is settled",
    "SETTLE_WRONG": "422: the settlement lacks something, or contradicts the order",
    "SETTLE_CODE": "409: the code confirms nothing of this order by this person, or its five minutes are over",
    "SETTLE_CHANGED": "409: the settlement is not the one that the code was given for",
    "SETTLE_REFUSED": "409: the order manager could not apply the settlement; `detail` says why",
    "VENUE_UNKNOWN": "404: there is no such venue, or the order manager never started with it; the message says which",
    "RECONCILE_UNKNOWN": "404: there is no such request to reconcile",
    "DECISION_UNKNOWN": "404: no such order or signal, or no strategy instance in the symbol",
    "INCIDENT_UNKNOWN": "404: no such incident",
    "INCIDENT_CLOSED": "409: the incident is closed already",
    "INCIDENT_RECORDED": "409: a payment of its difference was recorded since it was measured",
    "NOTHING_HELD": "409: nothing is held in the symbol",
    "KILL_WORKING": "409: the kill still cancels or closes something; it is released when all is quiet",
    "COMMIT_UNKNOWN": "504: the database went away while the signal was committed; send it again with the same key",
    "LEG_KEPT": "409: the venue keeps this stop or target by itself; exit the position, or move it at the platform",
    "ORDER_ENDED": "409: there is nothing left to cancel, and no exit to end",
    "EXPIRED": "422: the request's `valid_until` passed before it became an order",
    "SIGNAL_UNKNOWN": "404: no such signal",
    "SIGNAL_NEEDS_PERSON": "403: an agent proposed the signal; a person in a logged-in session approves it",
    "SIGNAL_OWN": "403: the caller submitted the signal itself; another one approves it, or it is rejected",
    "SIGNAL_NOT_PENDING": "409: the signal is decided, or its time is over",
    "STRATEGY_UNKNOWN": "404: no such strategy",
    "STRATEGY_BROKEN": "422: the strategy's file cannot be loaded",
    "STRATEGY_RAISED": "422: the strategy's code raised, or ended its process",
    "STRATEGY_WRONG": "422: the strategy's code returns or declares something of another form",
    "STRATEGY_REFUSED": "422: the strategy's check found a decision that depends on later bars, or a short warm-up",
    "STRATEGY_REENTERED": "422: the strategy's file begins a backtest, a search or a check whenever it is imported, "
    "and the check executes it",
    "PARAM_WRONG": "422: the strategy has no such parameter, or not with this value",
    "PRICE_UNKNOWN": "422: a price that is NaN or infinite has no ticks",
    "SPEC_WRONG": "422: the backtest or the optimization cannot run like this",
    "LIMITS_CURRENCY": "422: no stored bars price the account's currency, in which a backtest's limits are",
    "BACKTEST_UNKNOWN": "404: no such backtest",
    "STRATEGY_SLOW": "422: the strategy's code takes too long to be checked",
    "INSTANCE_UNKNOWN": "404: no such strategy instance",
    "ENTRIES_OPEN": "409: an order that enters is open, or a signal to enter waits, at the old parameters' prices; "
    "or a position is held that may have several entries",
    "INSTANCE_CHANGED": "409: the parameters of the instance changed meanwhile",
    "PROMOTION_REFUSED": "409: the parameters of the search may not be given to this instance, or there are none to go "
    "back to",
    "CHALLENGER_UNKNOWN": "404: no such challenger",
    "CHALLENGER_ENDED": "409: the challenger was removed",
    "CHALLENGER_ENTRY_ORDERS": "422: the strategy enters by limit or stop orders, which are not compared",
    "CHALLENGER_IS_CHAMPION": "409: these are the instance's own parameters",
    "CHALLENGER_NONE": "409: the instance's parameters did not come from a challenger",
    "CHALLENGER_NOT_FLAT": "409: the instance holds something, or an order or a signal of it is open",
    "CHALLENGER_NOT_PROPOSED": "409: no test speaks for the challenger",
    "CHALLENGER_WAITING": "409: another challenger of the instance waits to be swapped in",
    "OPTIMIZATION_UNKNOWN": "404: no such optimization",
    "SPACE_WRONG": "422: the strategy has no such space to search: `detail` names the parameter",
    "PLAN_WRONG": "422: the method does not fit the parameters or the number of objectives",
    "SPLITS_WRONG": "422: the validation needs more bars, or fewer folds",
    "OBJECTIVE_UNKNOWN": "422: no such objective",
    "SEARCH_EMPTY": "422: no trial of the search has a value; the message names denials that left no trade",
    "RULE_WRONG": "422: a given lot, tick or largest order is no positive number, too fine, or does not fit the others",
    "TOKEN_EXISTS": "409: a living token has this name",
    "TOKEN_UNKNOWN": "404: no living token has this name",
    "TOKEN_NAME": "422: not usable as a token's name",
    "TOKEN_LOCAL": "409: the command line's own token is not revoked here",
    "SCOPE_UNKNOWN": "422: no such scope",
    "CHANNEL_UNKNOWN": "400: no such channel",
    "SOCKETS_MANY": "429: the caller has too many sockets open at this replica",
    "JOBS_MANY": "429: the caller has too many jobs queued or running",
    "SOCKETS_FULL": "503: this replica serves as many sockets as it may",
    "ALERT_UNKNOWN": "404: no such alert",
    "ALERT_RULE_UNKNOWN": "404: no such rule of alerts",
    "ALERT_RULE_CHANGED": "409: the rule was changed meanwhile: its revision is another one",
    "ALERT_CHANNEL_UNKNOWN": "404: no such channel of alerts",
    "ALERT_CHANNEL_WRONG": "422: a channel's address cannot be used",
    "ALERT_CHANNEL_OFF": "409: the channel is switched off",
    "SILENCE_UNKNOWN": "404: no such silence holds",
    "OPERATION_UNKNOWN": "404: no such operation",
    "INDICATOR_UNKNOWN": "400: there is no indicator of this name",
    "INDICATOR_PARAM": "422 (400 for a value out of its range): a parameter that the indicator does not have",
    "INDICATOR_INPUT": "422: the indicator reads a second series, which this route does not give it",
    "MACHINE_UNKNOWN": "404: there is no state machine of this name",
    "COMPONENT_UNKNOWN": "404: no part of the running system has this name",
    "CONFIG_KEY": "422: no such setting, or one that cannot change while the system runs",
    "CONFIG_WRONG": "422: a setting's value does not fit, by itself or together with the others",
    "CONFIG_SAME": "422: these values are in force already",
    "CONFIG_CHANGED": "409: the settings changed since `base_version`",
    "CONFIG_ROLLING": "409: another version of the settings is still being rolled out",
    "CONFIG_VERSION_UNKNOWN": "404: no such version of the settings",
    "SERVICE_UNKNOWN": "404: no such service, or no component runs for it",
    "GROUP_UNKNOWN": "404: no NinjaTrader group of this name in the settings",
    "GRAPHQL_INVALID": "400 in `extensions`: the text is no query, or asks for a field that there is not",
    "GRAPHQL_LIMIT": "422 in `extensions`: the query is too long, too deep or too costly; `message` names the limit",
    "GRAPHQL_INTROSPECTION": "403 in `extensions`: the schema is described to callers with a token, or on this host",
    "QUARANTINE_UNKNOWN": "404: no suspect value of this number waits for a verdict",
    "SCHEDULE_UNKNOWN": "404: no such schedule",
    "SCHEDULE_EXISTS": "409: a schedule has this name",
    "SCHEDULE_OWN": "409: one of FKS's own schedules cannot be removed",
    "MCP_WRONG": "400: no message of the Model Context Protocol",
    "SCHEDULE_WRONG": "422: a name, cron or interval is not usable",
    "ACTION_UNKNOWN": "422: no such action of schedules",
    "SERVICE_WRONG": "422: a service cannot be registered like this",
    "SERVICE_EXISTS": "409: the name is a component's, or too many services of others are registered",
    "HOST_NOT_ALLOWED": "403: a host is not in `monitor.hosts`, or an address not allowed (there or in `alerts.hosts`)",
    "SPAN_TOO_LONG": "422: more bars than one request may value",
    "DOCUMENT_UNKNOWN": "404: no document has this id",
    "DOCUMENT_FORMAT": "422: an encrypted PDF, an Office or archive file, or a name without a known ending",
    "DOCUMENT_TEXT": "422: not UTF-8, truncated, unreadable, empty, or with NUL or half of a surrogate pair",
    "DOCUMENT_NAME": "422: the name of a document is empty, longer than 200 characters, or not printable",
    "DOCUMENT_SIZE": "413: the document has too many characters, chunks or pages, or needs too much memory or time",
    "DOCUMENT_SHIPPED": "409: a page of FKS itself cannot be removed",
    "DOCUMENTS_FULL": "409: the documents would have more than 20,000 chunks",
}
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def rewritten(text: str, app: FastAPI) -> str:
    """Return a document with its generated blocks rewritten. Errors: KeyError for an unknown block."""
    makers = {
        "routes": lambda: routes(app),
        "reads": lambda: reads(app),
        "problems": problems,
        "denials": denials,
        "metrics": metrics,
    }
    return _BLOCK.sub(lambda found: f"{found[1]}{makers[found[2]]()}{found[3]}", text)


def routes(app: FastAPI) -> str:
    """Return the table of routes."""
    rows = [(f"`{method} {path}`", scope, summary) for method, path, scope, summary in table(app)]
    return _table(("Route", "Scope", "What it does"), rows)


def reads(app: FastAPI) -> str:
    """Return the table of GraphQL fields."""
    from fks.interfaces.api.graphql.reads import reads_of
    from fks.interfaces.api.graphql.schema import type_name

    rows = []
    for read in reads_of(app):
        arguments = ", ".join(argument.name + ("!" if argument.is_needed else "") for argument in read.arguments)
        kind = "JSON" if read.model is None else type_name(read.model)
        rows.append((f"`{read.name}`", f"`{arguments}`" if arguments else "", f"`{kind}`", f"`GET {read.path}`"))
    return _table(("Field", "Arguments", "Type", "Route"), rows)


def problems() -> str:
    """Return the table of problem codes."""
    return _table(("Code", "When"), [(f"`{code}`", text) for code, text in PROBLEMS.items()])


def denials() -> str:
    """Return the table of denial codes."""
    ends = {code: f"after {after_s:g} s" if after_s else "at once" for code, after_s in ENDS_RESTING.items()}
    rows = [
        (f"`{code}`", "yes" if code in REDUCE_ONLY_APPLIES else "no", ends.get(code, "never"), text)
        for code, text in MEANING.items()
    ]
    return _table(("Code", "Also denies exits", "Ends resting entries", "Meaning"), rows)


def metrics() -> str:
    """Return the table of metrics."""
    rows = [
        (f"`{row.name}`", row.kind, ", ".join(f"`{label}`" for label in ("component", *row.labels)), row.help)
        for row in METRICS.values()
    ]
    return _table(("Metric", "Kind", "Labels", "What it says"), rows)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def documented_app() -> FastAPI:
    """Return the gateway's app for reading its routes; it is never served."""
    from fks.clock import RealClock
    from fks.config.paths import Paths
    from fks.config.settings import Settings
    from fks.interfaces.api.app import create_app
    from fks.interfaces.api.gateway import Deps

    class Silent:
        def debug(self, event: str, **fields: object) -> None: ...
        def info(self, event: str, **fields: object) -> None: ...
        def warning(self, event: str, **fields: object) -> None: ...
        def error(self, event: str, **fields: object) -> None: ...

    paths = Paths.of(".")
    deps = Deps(settings=Settings(), paths=paths, clock=RealClock(), log=Silent(), database_url="", redis_url="")
    return create_app(deps)


if __name__ == "__main__":
    FILE.write_text(rewritten(FILE.read_text(), documented_app()))
