"""Database roles of the order manager, the monitor and the processes below them: privileges, passwords, URLs.

Each kind of process logs in with a role of its own, named after the database (`fks_strategy`). It has the privileges
that the statements of `USES` need and no others: of an UPDATE the columns that it sets, of `leases` the process's own
rows. The privileges follow from the text of the statements: the upgrade that brings a statement grants what it needs. A
password is derived from the session key, which all machines of a cluster share.

Where a role cannot be made, or the server does not let it in (a connection pooler, peer authentication), its processes
connect as the owner of the tables, and `fks doctor` says so. The role of the gateway is in `fks.store.roles`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl as pairs_of
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr

from fks.config.paths import Paths
from fks.config.secrets import derived, write_private
from fks.config.version import VERSION
from fks.model.errors import OutageError
from fks.store.db import Database, sql

#: statements of every process that has a role
_COMMON = "leases.renew runtime_config.wanted metrics.save"
#: kind of process -> the statements that it runs
USES: Final[Mapping[str, str]] = {
    "strategy": f"""{_COMMON} bars.read_all bars.read_last bars.read crash_marks.settle crash_marks.unsettled
        challengers.claim challengers.due challengers.get challengers.anchor challengers.commit challengers.set_state
        challengers.record_crash corporate_actions.economic_revisions
        corporate_actions.economic_state facts.sealed_through feature_values.is_known feature_values.read
        forecasts.awaited forecasts.bar_s forecasts.miss reading.known reading.spelled
        strategies.claim strategies.due strategies.get strategies.new_bars strategies.anchor strategies.commit
        strategies.set_state strategies.record_crash strategies.last_exit strategies.exposure strategies.lease_epoch
        strategies.note""",
    "collector": f"""{_COMMON} assets.enabled assets.respell assets.seed feeds.claim feeds.cold feeds.flush
        feeds.received feeds.state feeds.trade_gaps instruments.all instruments.merge instruments.retire
        quarantine.add quarantine.confirmed quarantine.settle_bars sync.drop""",
    "jobs": """accounts.list alerting.raise bars.merge_rows bars.merge_staged bars.note_added bars.read bars.read_all
        bars.read_last bars.series bars.stand bars.stored bars.keep_calendar bars.keep_rules
        challengers.add challengers.due challengers.end_swapped challengers.evaluated challengers.get
        challengers.install challengers.list challengers.lock_instance challengers.standing challengers.wait
        challengers.decisions
        consents.begin_call consents.end_call consents.spent_today consents.usable
        corporate_actions.economic_revisions corporate_actions.economic_state
        corporate_actions.events corporate_actions.funding corporate_actions.funding_ranges
        deployments.all documents.activate documents.add_embedder documents.add_vector documents.chunks
        documents.consented documents.cost_of_vectors documents.counts
        documents.digest documents.drop_chunks documents.drop_embedders documents.drop_unfinished
        documents.drop_vectors documents.embedder documents.get
        documents.has_vectors documents.headings documents.lock documents.refuse documents.refused documents.remove
        documents.remove_others documents.save documents.save_chunk documents.state documents.terms
        drift.made drift.missed drift.pause drift.version_since facts.decisions facts.instruments facts.turnover
        feature_values.is_known feature_values.list feature_values.read
        forecasts.add forecasts.add_model forecasts.add_version forecasts.bar_s forecasts.ends_of
        forecasts.hold forecasts.of_fingerprint forecasts.predicted forecasts.serving forecasts.set_stage
        forecasts.versions
        gaps.add_known gaps.drop_known gaps.known gaps.missing gaps.series
        instruments.all instruments.get instruments.merge instruments.retire
        jobs.beat jobs.cancel jobs.claim jobs.finish jobs.get jobs.list jobs.load jobs.note_runner jobs.submit
        portfolio_runs.add_allocation portfolio_runs.instance_fills portfolio_runs.instance_since
        portfolio_runs.instance_targets portfolio_runs.target_set portfolio_runs.target_weights
        portfolios.equity portfolios.fills portfolios.known_members portfolios.list
        portfolios.overlaps portfolios.payments portfolios.traded
        quarantine.add quarantine.confirmed quarantine.settle quarantine.settle_bars reading.known reading.spelled
        reading.trade_ids reading.trades research_runs.add research_runs.earlier research_runs.list
        signals.get store.partitions
        strategies.add_version strategies.get strategies.list strategies.mode strategies.note strategies.on_paper_s
        strategies.versions supervision.note_event
        sync.advance sync.all sync.beat sync.begin sync.claim sync.drop sync.finish sync.forget_jobs sync.get
        sync.give_up sync.refuse sync.submit_job sync.waiting sync.want
        trials.add trials.claim trials.finish trials.requeue_lost trials.ended trials.counts trials.list""",
    "orders": f"""{_COMMON} accounts.fix_identity accounts.has_traded accounts.identity accounts.list
        accounts.note_balance accounts.save_balances alerting.channels alerting.raise alerting.rules alerting.settle
        bars.read bars.read_all bars.read_last corporate_actions.position_split corporate_actions.position_splits
        corporate_actions.traded_since corporate_actions.upcoming_splits credentials.carried credentials.note_rights
        credentials.refuse credentials.session_account credentials.take
        facts.best_close facts.decisions facts.drop_venue_states facts.executed
        facts.gates facts.halt facts.instances facts.instruments
        facts.lease_epoch facts.marks facts.oldest_decisions facts.oldest_ready facts.open_conditions
        facts.portfolio_limits facts.save_venue_state facts.sealed_bars facts.sealed_through facts.stop_moves
        facts.trades_after facts.turnover facts.undecided
        holdings.add_transfers holdings.known holdings.last_transfer holdings.moved holdings.set_opening
        incidents.drifts incidents.end incidents.last_of incidents.list incidents.open
        ninja.ask ninja.entries ninja.events_after ninja.events_of ninja.executions ninja.get ninja.leg_names
        ninja.link ninja.withdraw
        orders.apply orders.booked orders.by_venue_id orders.closes orders.columns_of orders.entries_of orders.fills
        orders.first_fill orders.get orders.has orders.is_ended_by_person orders.last_decision orders.last_fills
        orders.legs orders.newest_fill orders.open orders.person_fills orders.place_many orders.place_one orders.plans
        orders.wanted_cancels positions.list positions.save_external
        risk.close_before risk.losses risk.save_loss risk.save_start_price risk.start_prices risk.turnover
        settlements.compared settlements.confirmed settlements.finish settlements.finish_amendment
        settlements.finish_reconcile settlements.has_left settlements.hold_instance settlements.newest_trade
        settlements.open_amendments settlements.reconcile_requests settlements.set_plan settlements.take_entry_moves
        signals.broken signals.end_of signals.end_requests signals.expire signals.finish signals.finish_end_request
        signals.get signals.insert signals.legs signals.ready signals.ready_elsewhere signals.record_end
        signals.waiting store.origin store.ping venues.passes""",
    # commands by chat are carried out in the monitor: a person's decisions, exits and kills
    "monitor": f"""{_COMMON} accounts.list alerting.alerts_of alerting.channels alerting.claim alerting.drawdowns
        alerting.finish alerting.new_denials alerting.new_fills alerting.new_replacements alerting.open_keys
        alerting.pending alerting.prune alerting.raise alerting.recover alerting.route alerting.rules alerting.settle
        alerting.silences alerting.unrouted audit.add chat.begin chat.finish chat.lose chat.newest chat.prune
        deployments.all deployments.processes deployments.raise_alerts
        gateway.account_names gateway.position_exchange gateway.positions gateway.signal gateway.signals kill.accounts
        kill.engaged kill.instances kill.upsert metrics.young monitor.alert_exits monitor.alert_orders
        monitor.alert_models monitor.alert_positions
        monitor.alerts monitor.alerts_after monitor.components monitor.connections_ratio monitor.feeds monitor.kills
        monitor.last_alert monitor.nodes monitor.operations monitor.served monitor.troubled_instances
        monitor.unsettled monitor.venues nodes.forget_silent nodes.page_silent orders.allocation
        orders.by_signal reading.known reading.spelled registry.dependencies registry.forget_own registry.list
        registry.queues registry.recent_checks registry.register_own registry.save_checks registry.save_metrics
        registry.seed_dependency registry.seen registry.uptime registry.verdicts
        signals.decide signals.get signals.insert store.ping users.find users.lock_of users.note_failure
        users.take_back users.use_totp""",
}
KINDS: Final = tuple(USES)
#: kinds of process that are given no secret of the node
SECRETLESS: Final = ("strategy", "collector", "jobs")
_BARS: Final = ("collector", "jobs")
#: (kinds, table, privilege, columns) that the texts of the statements do not show
_FURTHER: Final[tuple[tuple[tuple[str, ...], str, str, tuple[str, ...]], ...]] = (
    # triggers on bars run with the rights of the statement that fires them
    (_BARS, "series", "SELECT", ()), (_BARS, "series", "INSERT", ()), (_BARS, "series", "UPDATE", ()),
    (_BARS, "ohlcv_data", "SELECT", ()), (_BARS, "default_exchanges", "SELECT", ()),
    (_BARS, "default_exchanges", "INSERT", ()), (_BARS, "default_exchanges", "UPDATE", ("exchange",)),
    (_BARS, "assets", "SELECT", ()),
    # a lock on rows needs the right to change a column
    (("jobs",), "ai_consents", "UPDATE", ("given_at",)),
    # a split of a position is a further part of `orders.apply`
    (("orders",), "position_splits", "INSERT", ()),
    # with TimescaleDB a trigger copies each execution (`fks.store.timescale`), with the rights of the statement
    (("orders",), "trades_by_time", "INSERT", ()), (("orders",), "trade_fees", "SELECT", ()),
    # `alerting.route` takes numbers from the sequence before it adds their rows
    (("monitor",), "alert_deliveries_id_seq", "UPDATE", ()),
)  # fmt: skip
_NAME_MAX = 48  # bytes of a database's name in the name of a role, which has 63; of a longer one a digest
#: the same in SQL as in `role_of`
_STEM: Final = f"""CASE WHEN octet_length(current_database()::text) <= {_NAME_MAX} THEN current_database()::text
 ELSE 'fks_' || left(encode(sha256(convert_to(current_database()::text, 'UTF8')), 'hex'), 12) END"""

_TEXT = re.compile(r"--[^\n]*|'(?:[^']|'')*'")
_TARGET = re.compile(
    r"\bINSERT\s+INTO\s+(?P<insert>\w+)|\bDELETE\s+FROM\s+(?P<delete>\w+)"
    r"|(?<!\bDO )(?<!\bFOR )\bUPDATE\s+(?P<update>\w+)"
    r"|\bDO\s+(?P<conflict>UPDATE)\b",
    re.IGNORECASE,
)
_ALIAS = r"(?:\s+(?:AS\s+)?(?!(?:ON|WHERE|JOIN|LEFT|CROSS|USING|ORDER|GROUP|LIMIT|FOR|SET|UNION)\b)\w+)?"
_SOURCE = re.compile(rf"\b(?:FROM|JOIN|USING)\s+(\w+{_ALIAS}(?:\s*,\s*\w+{_ALIAS})*)", re.IGNORECASE)
_END_OF_SET = re.compile(r"\b(?:FROM|WHERE|RETURNING)\b", re.IGNORECASE)
Privileges = dict[tuple[str, str], frozenset[str]]


def privileges(kind: str) -> Privileges:
    """Return the columns that the processes of a kind need by (name, privilege); an empty set: the whole table.

    The names are those that the statements read and write, of their own WITH queries, too.
    """
    found: Privileges = {}

    def add(table: str, privilege: str, columns: frozenset[str] = frozenset()) -> None:
        known = found.get((table, privilege), columns)
        found[table, privilege] = known | columns if known and columns else frozenset()

    for kinds, table, privilege, columns in _FURTHER:
        if kind in kinds:
            add(table, privilege, frozenset(columns))
    for name in USES[kind].split():
        text = _TEXT.sub(lambda found: "''" if found[0].startswith("'") else " ", sql(name))
        inserted = ""
        for match in _TARGET.finditer(text):
            if (table := match["insert"]) is not None:
                inserted = table
                add(table, "INSERT")
            elif (table := match["delete"]) is not None:
                add(table, "DELETE")
            else:
                table = match["update"] or inserted
                add(table, "UPDATE", _set_columns(text[match.end() :]))
            add(table, "SELECT")  # of RETURNING, WHERE and ON CONFLICT
        for source in _SOURCE.findall(text):
            for item in source.split(","):
                add(item.split()[0], "SELECT")
    return found


def _set_columns(text: str) -> frozenset[str]:
    """Return the columns of the SET that follows in a statement."""
    _, _, text = re.split(r"(\bSET\b)", text, maxsplit=1, flags=re.IGNORECASE)
    depth, flat = 0, ""
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break  # the WITH query ends
        flat += letter if depth == 0 and letter != ")" else " "
    if (end := _END_OF_SET.search(flat)) is not None:
        flat = flat[: end.start()]
    return frozenset(part.partition("=")[0].strip() for part in flat.split(",") if "=" in part)


def grants() -> str:
    """Return the statement that gives the roles of this database their privileges, and takes all others away: not
    while processes of another build run, which may need them.

    It changes only what differs. A role that is not there is left out; the caller owns the tables.
    """
    wanted = [
        {"kind": kind, "name": table, "privilege": privilege, "columns": sorted(columns)}
        for kind in KINDS
        for (table, privilege), columns in sorted(privileges(kind).items())
    ]
    return _GRANTS.replace("WANTED", json.dumps(wanted)).replace("KINDS", json.dumps(KINDS))


#: A process of a role writes its own rows of `leases` alone; the owner of the table and `fks_api` write all. The policy
#: names no role: a dump with it is restored on a server without the roles.
_GRANTS: Final = f"""DO $do$
DECLARE
  thing record;
  is_alone boolean;
BEGIN
  IF to_regproc('public.make_partition') IS NULL OR NOT EXISTS (
     SELECT FROM jsonb_array_elements_text('KINDS') AS k(kind)
       JOIN pg_roles r ON r.rolname = {_STEM} || '_' || k.kind) THEN RETURN; END IF;
  CREATE TEMP TABLE fks_roles ON COMMIT DROP AS
  SELECT r.oid, r.rolname AS role, k.kind FROM jsonb_array_elements_text('KINDS') AS k(kind)
    JOIN pg_roles r ON r.rolname = {_STEM} || '_' || k.kind;
  CREATE TEMP TABLE fks_wanted ON COMMIT DROP AS
  SELECT r.role, c.oid AS id, w.privilege, w.columns
    FROM jsonb_to_recordset('WANTED') AS w(kind text, name text, privilege text, columns text[])
    JOIN fks_roles r USING (kind)
    JOIN pg_class c ON c.relname = w.name AND c.relnamespace = 'public'::regnamespace
     AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND pg_has_role(current_user, c.relowner, 'USAGE');
  -- a job copies bars into their partition, past the triggers
  INSERT INTO fks_wanted
  SELECT w.role, i.inhrelid, w.privilege, w.columns FROM fks_wanted w JOIN pg_inherits i ON i.inhparent = w.id
   WHERE w.role LIKE '%\\_jobs' AND w.privilege IN ('SELECT', 'INSERT');
  is_alone := NOT EXISTS (SELECT FROM public.component_health
                           WHERE version NOT IN ('', '{VERSION}') AND beat_at > now() - interval '30 s');
  FOR thing IN
    SELECT DISTINCT r.role, c.oid::regclass AS name, a.privilege_type AS privilege, '' AS columns
      FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a JOIN fks_roles r ON r.oid = a.grantee
     WHERE is_alone AND c.relnamespace = 'public'::regnamespace AND NOT EXISTS (
           SELECT FROM fks_wanted w
            WHERE w.role = r.role AND w.id = c.oid AND w.privilege = a.privilege_type AND w.columns = ARRAY[]::text[])
    UNION ALL
    SELECT DISTINCT r.role, c.oid::regclass, a.privilege_type, format('(%I)', t.attname)
      FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
     CROSS JOIN LATERAL aclexplode(t.attacl) a JOIN fks_roles r ON r.oid = a.grantee
     WHERE is_alone AND c.relnamespace = 'public'::regnamespace AND NOT EXISTS (
           SELECT FROM fks_wanted w
            WHERE w.role = r.role AND w.id = c.oid AND w.privilege = a.privilege_type AND t.attname = ANY (w.columns))
  LOOP
    EXECUTE format('REVOKE %s %s ON %s FROM %I', thing.privilege, thing.columns, thing.name, thing.role);
  END LOOP;
  FOR thing IN
    SELECT w.role, w.id::regclass AS name, w.privilege,
           (SELECT '(' || string_agg(quote_ident(n), ', ') || ')' FROM unnest(w.columns) AS n) AS columns
      FROM fks_wanted w
     WHERE CASE WHEN w.columns = ARRAY[]::text[] THEN NOT has_table_privilege(w.role, w.id, w.privilege)
                ELSE EXISTS (SELECT FROM unnest(w.columns) AS n
                              WHERE NOT has_column_privilege(w.role, w.id, n, w.privilege)) END
  LOOP
    EXECUTE format('GRANT %s %s ON %s TO %I', thing.privilege, coalesce(thing.columns, ''), thing.name, thing.role);
  END LOOP;
  FOR thing IN SELECT role, kind FROM fks_roles LOOP
    IF thing.kind = 'jobs'
       AND NOT has_function_privilege(thing.role, 'make_partition(text, timestamptz)', 'EXECUTE') THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION make_partition TO %I', thing.role);
    END IF;
    IF thing.kind = 'jobs' AND NOT coalesce(
       has_function_privilege(thing.role, to_regprocedure('ai_index_vectors(bigint, int)'), 'EXECUTE'), true) THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION ai_index_vectors, ai_drop_vector_indexes TO %I', thing.role);
    END IF;
    IF NOT has_schema_privilege(thing.role, 'public', 'USAGE') THEN
      EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', thing.role);
    END IF;
    IF NOT has_database_privilege(thing.role, current_database(), 'CONNECT') THEN
      EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), thing.role);
    END IF;
  END LOOP;
  IF NOT EXISTS (SELECT FROM pg_policies WHERE tablename = 'leases' AND policyname = 'own_kind') THEN
    DROP POLICY IF EXISTS every_row ON public.leases;
    DROP POLICY IF EXISTS own_row ON public.leases;
    CREATE POLICY every_row ON public.leases USING (true);
    CREATE POLICY own_kind ON public.leases AS RESTRICTIVE FOR UPDATE USING (
      coalesce(split_part(name, ':', 1) = substring(current_user FROM '_({"|".join(KINDS)})$'), true));
    ALTER TABLE public.leases ENABLE ROW LEVEL SECURITY;
  END IF;
  DROP TABLE fks_wanted, fks_roles;
END $do$"""  # noqa: S608

#: a usable role has its grants, and can do nothing else: one with more rights is another program's. The order manager
#: reads which server it is connected to: an administrator may have kept these functions from PUBLIC
_STANDING: Final = """SELECT rolname, NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
   AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
   AND has_schema_privilege(r.oid, 'public', 'USAGE')
   AND coalesce(has_table_privilege(r.oid, to_regclass('public.feeds'), 'SELECT'), false)
   AND (rolname NOT LIKE '%\\_orders' OR has_function_privilege(r.oid, 'pg_control_system()', 'EXECUTE')
                                      AND has_function_privilege(r.oid, 'pg_walfile_name(pg_lsn)', 'EXECUTE'))
   AS is_usable
  FROM pg_roles r WHERE rolname = ANY ($1::text[])"""


def role_of(url: str, kind: str) -> str:
    """Return the name of the role of a kind of process in the database of a URL."""
    name = unquote(urlsplit(url).path[1:])
    if len(name.encode()) > _NAME_MAX:  # two that begin alike have roles of their own
        name = f"fks_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return f"{name}_{kind}"


def password_of(key: SecretStr, kind: str) -> str:
    """Return the password of a role, from the session key."""
    return base64.urlsafe_b64encode(derived(key.get_secret_value(), f"database-role:{kind}")).decode().rstrip("=")


def url_of(url: str, kind: str, key: SecretStr) -> str:
    """Return the owner's URL with the role and password of a kind of process."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    account = f"{quote(role_of(url, kind), safe='')}:{password_of(key, kind)}"
    options = [(name, value) for name, value in pairs_of(parts.query) if name not in ("user", "password", "passfile")]
    return urlunsplit(parts._replace(netloc=f"{account}@{place}", query=urlencode(options)))


def creation(url: str, kind: str, key: SecretStr, *, verb: str = "CREATE") -> str:
    """Return the statement that makes a role, or with "ALTER" gives it the password: it holds a hash of that, as
    PostgreSQL stores it (RFC 5803)."""
    salt, rounds = secrets.token_bytes(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password_of(key, kind).encode(), salt, rounds)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    texts = [base64.b64encode(part).decode() for part in (salt, client, server)]
    name = role_of(url, kind).replace('"', '""')
    return f"{verb} ROLE \"{name}\" LOGIN PASSWORD 'SCRAM-SHA-256${rounds}:{texts[0]}${texts[1]}:{texts[2]}'"


async def standing(db: Database, url: str, key: SecretStr) -> dict[str, str]:
    """Return the state of each kind's role: `used`, `absent`, `refused` (the server does not let it in) or `unusable`
    (it lacks its grants, or has other rights). `db` and `url` are the owner's. Errors: OutageError."""
    rows = await db.sql(_STANDING, [role_of(url, kind) for kind in KINDS])
    usable = {row["rolname"]: row["is_usable"] for row in rows}

    async def state(kind: str) -> str:
        if (is_usable := usable.get(role_of(url, kind))) is None:
            return "absent"
        if not is_usable:
            return "unusable"
        return "used" if await lets_in(url_of(url, kind, key)) else "refused"

    return dict(zip(KINDS, await asyncio.gather(*map(state, KINDS)), strict=True))


async def ensure_roles(db: Database, url: str, key: SecretStr, paths: Paths) -> dict[str, str]:
    """Make the roles that are missing, with their grants; write the URLs of those that can log in to
    `paths.database_roles`, by kind, for the processes to come, and return them.

    `db` and `url` are the owner's; the schema is the newest. Errors: OutageError.
    """
    states = await standing(db, url, key)
    verbs = {"absent": "CREATE", "refused": "ALTER"}
    changed = [
        await _attempt(db, creation(url, kind, key, verb=verbs[state]))
        for kind, state in states.items()
        if state in verbs
    ]
    if any(changed):
        await _attempt(db, grants())
        states = await standing(db, url, key)
    found = {kind: url_of(url, kind, key) for kind, state in states.items() if state == "used"}
    write_private(paths.database_roles, json.dumps(found))
    return found


async def _attempt(db: Database, statement: str) -> bool:
    """Return whether a statement about roles was carried out, here or by another process that was faster."""
    try:
        await db.sql(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError, asyncpg.InternalServerError):
        return True
    return True


async def lets_in(url: str) -> bool:
    """Return whether the server lets a role in. Errors: OutageError when it does not answer."""
    try:
        connection = await asyncpg.connect(url, timeout=10.0)
    except (
        asyncpg.InvalidAuthorizationSpecificationError,  # InvalidPasswordError is one
        asyncpg.InsufficientPrivilegeError,
        asyncpg.ProtocolViolationError,  # a connection pooler that does not know the role
    ):
        return False
    except (OSError, asyncpg.PostgresError) as error:
        raise OutageError("PostgreSQL does not answer", detail=f"a role: {type(error).__name__}: {error}") from error
    connection.terminate()
    return True
