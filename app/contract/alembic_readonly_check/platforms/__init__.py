"""What a hosting platform brings into every database, so that it is no drift of a project."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Platform:
    """Names that are the platform's own; `script` makes a scratch database look like it."""

    schemas: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    extensions: frozenset[str] = frozenset()
    publications: frozenset[str] = frozenset()
    script: Path | None = None


_SYSTEM = frozenset({"information_schema", "pg_catalog"})
NONE = Platform(_SYSTEM)
SUPABASE = Platform(
    _SYSTEM
    | frozenset(
        """auth cron extensions graphql graphql_public net pgbouncer pgmq pgmq_public pgsodium
        pgsodium_masks pgtle realtime _realtime repack storage supabase_functions
        supabase_migrations tiger topology vault _analytics _supavisor""".split()
    ),
    frozenset("""authenticator dashboard_user pgbouncer pgsodium_keyholder pgsodium_keyiduser
        pgsodium_keymaker pgtle_admin postgres supabase_admin supabase_auth_admin
        supabase_etl_admin supabase_functions_admin supabase_read_only_user
        supabase_realtime_admin supabase_replication_admin supabase_storage_admin""".split()),
    frozenset("""hypopg index_advisor pg_cron pg_graphql pg_net pg_stat_monitor pg_stat_statements
        pgaudit pgcrypto pgjwt pgmq pgsodium pgtap plpgsql plpgsql_check supabase_vault supautils
        uuid-ossp wrappers""".split()),
    frozenset({"supabase_realtime", "supabase_realtime_messages_publication"}),
    Path(__file__).with_name("supabase.sql"),
)
PLATFORMS = {None: NONE, "supabase": SUPABASE}
