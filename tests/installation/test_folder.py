"""`annex install` writes new files only, after all that are there."""

from datetime import timedelta
from pathlib import Path

import pytest

from app.database.migrations import Migration
from app.installation import InstallationError
from app.installation.folder import Copy, install, next_version
from app.installation.removal import removal
from tests.installation.projects import CARRIED, NOW

FIRST = "20270301120000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "supabase" / "migrations"
    made.mkdir(parents=True)
    return made


def stamps(copies: list[Copy]) -> list[str]:
    return [copy.version for copy in copies]


def test_copies_are_stamped_now_and_in_order(folder: Path) -> None:
    done = install(folder, CARRIED, NOW)
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == f"{FIRST}_annex_01_roles_and_claims.sql"
    assert names == [copy.path.name for copy in done.added]
    assert stamps(done.added) == sorted(set(stamps(done.added)))
    for copy, migration in zip(done.added, CARRIED, strict=True):
        original, made = migration.sql.splitlines(), copy.path.read_text().splitlines()
        assert made[:-1] == original[:-1]
        assert made[-1] == (
            "insert into annex.migrations (name, checksum)"
            f" values ('{copy.name}', '{migration.checksum}');"
        )


def test_a_second_run_adds_nothing_and_touches_nothing(folder: Path) -> None:
    install(folder, CARRIED, NOW)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    again = install(folder, CARRIED, NOW + timedelta(days=1))
    assert (again.added, again.changed) == ([], [])
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def test_a_copy_is_known_by_its_content_whatever_its_name(folder: Path) -> None:
    for copy in install(folder, CARRIED, NOW).added:
        copy.path.rename(folder / f"{copy.version}_renamed.sql")
    assert install(folder, CARRIED, NOW).added == []


def test_one_that_is_gone_before_others_is_said(folder: Path) -> None:
    install(folder, CARRIED, NOW).added[3].path.unlink()
    with pytest.raises(InstallationError, match=rf"lacks {CARRIED[3].name}; bring back"):
        install(folder, CARRIED, NOW)


def test_the_last_one_that_is_gone_is_added_anew(folder: Path) -> None:
    install(folder, CARRIED, NOW).added[-1].path.unlink()
    (added,) = install(folder, CARRIED, NOW).added
    assert added.name == CARRIED[-1].name
    assert added.path == max(folder.iterdir())


def test_one_that_was_changed_is_said_and_left(folder: Path) -> None:
    path = install(folder, CARRIED, NOW).added[0].path
    path.write_text("-- mine\n" + path.read_text())
    done = install(folder, CARRIED, NOW)
    assert [copy.path for copy in done.changed] == [path]
    assert path.read_text().startswith("-- mine")


@pytest.mark.parametrize("has_checksum", [True, False])
def test_a_copy_of_a_migration_that_this_version_edited_stops_the_install(
    folder: Path, tmp_path: Path, has_checksum: bool
) -> None:
    path = install(folder, CARRIED[:3], NOW).added[2].path
    if not has_checksum:  # a copy from before there were checksums
        path.write_bytes(CARRIED[2].path.read_bytes())
    newer = tmp_path / CARRIED[2].path.name
    newer.write_text("-- edited\n" + CARRIED[2].sql)
    release = [*CARRIED[:2], Migration(CARRIED[2].name, newer), *CARRIED[3:]]
    before = sorted(folder.iterdir())
    with pytest.raises(InstallationError, match=r"03_workspaces\. Nothing was added; .*uninstall"):
        install(folder, release, NOW)
    assert sorted(folder.iterdir()) == before
    (folder / "20280101000000_remove_annex.sql").write_text(removal())
    assert len(install(folder, release, NOW).added) == len(CARRIED)


def test_line_ends_that_git_converted_are_no_change(folder: Path) -> None:
    path = install(folder, CARRIED, NOW).added[0].path
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    done = install(folder, CARRIED, NOW)
    assert (done.added, done.changed) == ([], [])


@pytest.mark.parametrize(
    ("newest", "following"),
    [
        ("", FIRST),
        ("20270301115959", FIRST),
        (FIRST, "20270301120001"),
        ("20991231235959", "21000101000000"),
        ("20279999999998", "20279999999999"),
        ("3000", "3001"),
        ("0001", FIRST),
        ("2027030113", "2027030114"),
        ("20270301235", "20270301236"),
        ("202703012359", "202703012360"),
    ],
)
def test_a_stamp_follows_the_newest_one(newest: str, following: str) -> None:
    assert next_version(newest, NOW) == following
    assert following > newest  # as text, which is how the CLI compares them


def test_a_newest_stamp_that_nothing_can_follow_is_said(folder: Path) -> None:
    (folder / "99999_forever.sql").write_text("select 1;")
    with pytest.raises(InstallationError, match="No stamp comes after 99999"):
        install(folder, CARRIED, NOW)


def test_after_a_removal_everything_is_added_anew(folder: Path) -> None:
    install(folder, CARRIED, NOW)
    (folder / "20280101000000_remove_annex.sql").write_text(removal())
    done = install(folder, CARRIED, NOW)
    assert len(done.added) == len(CARRIED)
    assert done.added[0].version == "20280101000001"


def test_a_folder_that_no_project_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=r"There is no folder .*supabase; run this in"):
        install(tmp_path / "supabase" / "migrations", CARRIED, NOW)


def test_the_folder_of_a_project_without_migrations_is_made(tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    done = install(tmp_path / "supabase" / "migrations", CARRIED, NOW)
    assert len(done.added) == len(CARRIED)
