"""Which tests run on every version of Postgres that is promised, and which on one alone.

A version decides about catalogs, grants, plans, locks and what a statement does. So all that calls
the schema's functions straight runs on every version, as do the doctor, the drift check's reading
of catalogs, and a call of each operation. What is left out repeats statements of its neighbours
with other values or more rows, or it plants what no server decides. 16, which has tested versions
on both sides, leaves out more (NOT_BETWEEN). `make test-versions` runs everything on all of them.
tests/called.py holds that each function of the schema is called.
"""

from pathlib import Path

ON_EVERY_POSTGRES = (
    "tests/app/test_compiling.py",  # calls every operation; one of its two ways is marked there
    "tests/app/test_start.py",
    "tests/contract/test_catalog_changes.py",  # every kind of object, as catalogs show it
    "tests/contract/test_models_and_database.py",
    "tests/contract/test_platform.py",
    "tests/contract/test_readonly.py",
    "tests/controllers/test_unsubscriptions.py",
    "tests/database/",
    "tests/doctor/",
    "tests/installation/test_projects.py",
    # Functions that none of the others calls.
    "tests/controllers/test_api_keys.py::test_a_key_is_verified_for_who_may_read_it",
    "tests/controllers/test_event_types.py::test_a_strict_workspace_takes_only_types_of_the_catalogue",
    "tests/controllers/test_invitations.py::test_declining_ends_an_invitation_and_leaves_a_link",
    "tests/controllers/test_invitations.py::test_revoking_ends_it_at_once_and_can_be_repeated",
    "tests/controllers/test_join_rules.py::test_users_of_a_domain_join_with_the_rules_role",
    "tests/test_conventions.py::test_a_repeated_request_is_answered_and_not_done_again",
    "tests/worker/test_mails.py::test_a_workspace_queues_so_many_mails_a_day",
    "tests/worker/test_mails.py::test_an_invitation_arrives_and_is_accepted_by_the_mails_link",
    "tests/worker/test_notification_mails.py::test_quiet_hours_delay_a_mail_unless_it_is_critical",
    "tests/worker/test_notification_mails.py::test_what_was_not_read_is_mailed_once",
    # The worker's statements that are more than the call of a function.
    "tests/worker/test_runner.py::test_a_reader_alone_keeps_the_log_moving_and_skips_nothing",
)
"""Tests, files and folders; a new test in them runs on every version."""
MARKED_BY_HAND = ("tests/app/test_compiling.py",)

_SETTINGS = (
    *("connections of the server", "CORS", "environment", "key set", "limits"),
    *("operator", "pooler", "SMTP", "trusted proxies"),
)
_FAULTS = "tests/doctor/test_faults.py"
_PROJECTS = "tests/installation/test_projects.py"
ON_ONE_POSTGRES = (
    # Drawn values, and many rows.
    "tests/database/test_fanout.py::test_a_large_fan_out_is_paged_and_does_not_hold_up_a_small_one",
    "tests/database/test_log.py::test_a_flood_of_personal_events_delays_nobody_else",
    "tests/database/test_schemas.py::test_sql_and_the_library_agree_on_any_schema_and_data",
    "tests/database/test_schemas.py::test_what_the_check_takes_is_a_schema_to_the_library_too",
    # What no server decides: settings of Annex and of what surrounds it.
    *(f"{_FAULTS}::test_is_found_and_cured[{check}: " for check in _SETTINGS),
    "tests/doctor/test_doctor.py::test_a_clock_that_is_wrong_is_found",
    "tests/doctor/test_doctor.py::test_a_host_that_is_none_may_be_part_of_a_password",
    "tests/doctor/test_doctor.py::test_a_refused_password_",
    "tests/doctor/test_doctor.py::test_a_refused_smtp_login_is_found",
    "tests/doctor/test_doctor.py::test_a_signing_key_that_the_project_does_not_have_is_found",
    "tests/doctor/test_doctor.py::test_an_smtp_server_without_a_sign_in_is_found",
    "tests/doctor/test_doctor.py::test_the_command_",
    "tests/doctor/test_doctor.py::test_too_few_open_files_are_found",
    "tests/doctor/test_doctor.py::test_what_is_no_key_set_is_found",
    "tests/doctor/test_doctor.py::test_workers_are_processes_of_every_serve",
    "tests/doctor/test_surroundings.py::test_a_database_of_another_project_is_found",
    "tests/doctor/test_surroundings.py::test_a_template_that_cannot_be_used_is_found",
    # Orders of the same migrations.
    f"{_PROJECTS}::test_a_failing_migration_is_undone_and_said",
    f"{_PROJECTS}::test_a_migration_that_is_applied_twice_fails_as_a_whole",
    f"{_PROJECTS}::test_an_edited_migration_is_said_by_migrate_and_by_a_start_whoever_applied_it",
    f"{_PROJECTS}::test_before_any_migration_of_its_own_too",
    f"{_PROJECTS}::test_what_was_migrated_is_refused_by_a_push_until_the_cli_is_told",
    f"{_PROJECTS}::test_what_was_pushed_is_known_to_migrate",
)
"""The beginnings of the names of tests that the list above takes in."""
ONE_CASE = (
    "tests/contract/test_models_and_database.py::test_models_agree_until_something_changes[",
    "tests/database/test_races.py::test_of_two_owners_one_stays[",
)
"""Tests whose cases read the same catalogs or pair the same six calls: the first stands for all."""

BETWEEN = "16"
"""A version with tested ones on both sides: what 15 and 17 answer alike, it should answer as well.

It still runs what calls the schema's functions, rights, policies, migrations, a start and each
operation. tests/called.py demands of it, too, that each function is called.
"""
NOT_BETWEEN = (
    "tests/contract/",  # what catalogs show, as the drift check reads it
    "tests/database/test_large_arguments.py",
    "tests/database/test_mutants.py",
    "tests/database/test_plans.py",
    "tests/database/test_races.py",
    "tests/database/test_read_costs.py",
    "tests/doctor/test_faults.py",
    "tests/doctor/test_surroundings.py",
)
"""Files and folders that are left out there: catalogs, plans, locks, costs and planted faults."""

PLAN_EVENTS, PLAN_EVENTS_ELSEWHERE = 1_000_000, 200_000
"""How many events lists are planned among: on the version that runs everything, on the others."""


class Chooser:
    """Says of one test after the other whether it runs on every version."""

    def __init__(self, version: str) -> None:
        self.left_out = ON_ONE_POSTGRES + (NOT_BETWEEN if version == BETWEEN else ())
        self.stood_for: set[str] = set()

    def __call__(self, nodeid: str) -> bool:
        """Return whether a test, by its name, depends on the version."""
        if not nodeid.startswith(ON_EVERY_POSTGRES) or nodeid.startswith(MARKED_BY_HAND):
            return False
        if nodeid.startswith(self.left_out):
            return False
        if nodeid.startswith(ONE_CASE):
            is_first = nodeid.partition("[")[0] not in self.stood_for
            self.stood_for.add(nodeid.partition("[")[0])
            return is_first
        return True


def has_none(path: Path, root: Path, version: str) -> bool:
    """Return whether a file of tests has none for a version: importing it takes long."""
    inside = path.relative_to(root).as_posix()
    if version == BETWEEN and path.name.startswith("test_") and inside.startswith(NOT_BETWEEN):
        return True
    chosen = tuple(place.partition("::")[0] for place in ON_EVERY_POSTGRES)
    return path.name.startswith("test_") and not inside.startswith(chosen)
