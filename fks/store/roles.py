"""Database role of the gateway, `fks_api`: it reads and writes every table, and can add to the audit but not edit it.

The gateway's connections take the role as they open. The owner of the tables is another role, so that no statement of
the gateway can switch the triggers of `audit_log` off, or drop it. Code that runs in the gateway's process can read
the owner's password from FKS_HOME: the role bounds faults in the gateway's statements, not its process.

Where the owner may not create roles there is none, and the triggers alone protect the audit. An operator can make it:
`CREATE ROLE fks_api; GRANT fks_api TO <owner>`, then `fks db upgrade`.
"""

from __future__ import annotations

from typing import Final

API_ROLE: Final = "fks_api"

#: Makes the role and its grants as far as they are missing. Safe while others write: what is granted is not touched.
GRANT: Final = """DO $do$
DECLARE
  thing record;
  may_take text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
  IF to_regclass('public.audit_log') IS NULL THEN RETURN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fks_api') THEN
    BEGIN
      CREATE ROLE fks_api NOLOGIN;
    EXCEPTION
      WHEN insufficient_privilege THEN RETURN;
      WHEN duplicate_object OR unique_violation THEN NULL;  -- another database of this server made it just now
    END;
  END IF;
  -- from PostgreSQL 16 on a creator that is no superuser may administer the role it made, and not yet take it
  IF NOT pg_has_role(current_user, 'fks_api', may_take) THEN
    BEGIN
      EXECUTE format('GRANT fks_api TO %I', current_user);
    EXCEPTION WHEN insufficient_privilege THEN RETURN;
    END;
  END IF;
  IF NOT has_schema_privilege('fks_api', 'public', 'USAGE') THEN
    GRANT USAGE ON SCHEMA public TO fks_api;
  END IF;
  FOR thing IN
    SELECT c.oid::regclass AS name, c.relkind AS kind FROM pg_class c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
       AND c.relname NOT IN ('audit_log', 'audit_log_id_seq')
       AND pg_get_userbyid(c.relowner) = current_user
       AND NOT CASE c.relkind WHEN 'S' THEN has_sequence_privilege('fks_api', c.oid, 'USAGE')
                              ELSE has_table_privilege('fks_api', c.oid, 'DELETE') END
  LOOP
    IF thing.kind = 'S' THEN
      EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE %s TO fks_api', thing.name);
    ELSE
      EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO fks_api', thing.name);
    END IF;
  END LOOP;
  IF NOT has_table_privilege('fks_api', 'public.audit_log', 'INSERT') THEN
    GRANT SELECT, INSERT ON public.audit_log TO fks_api;
  END IF;
END $do$"""

#: Makes a connection act as the role, where it exists with its grants; else the connection stays what it is.
TAKE: Final = """SELECT set_config('role', 'fks_api', false)
 WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'fks_api')
   AND has_table_privilege('fks_api', to_regclass('public.audit_log'), 'INSERT')
   AND pg_has_role(current_user, 'fks_api',
                   CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)"""
