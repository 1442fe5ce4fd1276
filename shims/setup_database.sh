#!/bin/sh
# Set the database up, as the script of this name did: secrets, the embedded server, the schema. Safe to repeat.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
fks="$here/.venv/bin/fks"
[ -x "$fks" ] || fks=$(command -v fks) || { echo "fks is not installed: run 'make install'" >&2; exit 1; }
[ -n "$FKS_HOME" ] || { FKS_HOME="$here/.fks"; export FKS_HOME; }
"$fks" security-setup
"$fks" db upgrade
