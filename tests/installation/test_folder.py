"""`annex install` writes new files only, after all that are there."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from app.database.migrations import Migration, with_checksum
from app.installation import InstallationError
from app.installation.folder import PART, Copy, install, next_version
from app.installation.removal import removal
from tests.installation.projects import CARRIED, NOW, later_release

FIRST = "20270301120000"


class KilledError(BaseException):
    """Stands for the end of the process."""


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


@pytest.mark.parametrize(
    "spelling",
    [
        lambda record: record.replace(
            "insert into annex.migrations", "INSERT INTO annex.migrations"
        ),
        lambda record: record.replace("annex.migrations", '"annex"."migrations"'),
        lambda record: record.replace(" values (", "\nvalues\n  ("),
        lambda record: record + "\n-- checked by me\n",
    ],
)
def test_a_copy_that_a_formatter_rewrote_is_known_and_said(
    folder: Path, spelling: Callable[[str], str]
) -> None:
    path = install(folder, CARRIED, NOW).added[2].path
    *body, record = path.read_text().strip().splitlines()
    path.write_text("\n".join([*body, spelling(record)]))
    done = install(folder, CARRIED, NOW)
    assert (done.added, [copy.path for copy in done.changed]) == ([], [path])


def test_a_copy_that_is_there_twice_is_said(folder: Path) -> None:
    """Two branches that were merged have each run the command."""
    path = install(folder, CARRIED, NOW).added[1].path
    again = folder / "20290101000000_annex_02_profiles.sql"
    again.write_bytes(path.read_bytes())
    before = sorted(folder.iterdir())
    said = rf"{path.name} and {again.name} are both 02_profiles, .* delete the one that no database"
    with pytest.raises(InstallationError, match=said):
        install(folder, CARRIED, NOW)
    assert sorted(folder.iterdir()) == before
    again.unlink()
    assert install(folder, CARRIED, NOW).added == []


@pytest.mark.parametrize(
    "makes",
    [
        "create schema annex;",
        'CREATE SCHEMA IF NOT EXISTS "annex";',
        "-- dumped\ncreate schema annex authorization x;",
    ],
)
def test_another_file_that_makes_the_schema_is_said(folder: Path, makes: str) -> None:
    squashed = folder / "20270101000000_squashed.sql"
    squashed.write_text(makes)
    with pytest.raises(InstallationError, match=r"squashed\.sql makes a schema annex and is no"):
        install(folder, CARRIED, NOW)
    assert list(folder.iterdir()) == [squashed]
    later = folder / "20270102000000_renamed.sql"
    later.write_text("alter schema annex rename to annexe;")
    assert len(install(folder, CARRIED, NOW).added) == len(CARRIED)
    later.unlink()
    # What comes after the copies would fail, and is not ours to judge before.
    squashed.write_text("create schema annexe; -- create schema annex\n")
    assert install(folder, CARRIED, NOW).added == []


def test_a_schema_that_somebody_dropped_by_hand_is_added_anew(folder: Path) -> None:
    install(folder, CARRIED, NOW)
    (folder / "20280101000000_away.sql").write_text("DROP SCHEMA annex CASCADE;")
    assert len(install(folder, CARRIED, NOW).added) == len(CARRIED)


def test_what_only_looks_like_a_migration_is_left_alone(folder: Path) -> None:
    ours = with_checksum(CARRIED[0].sql)
    (folder / "20270101000000_old.sql.bak").write_text(ours)
    (folder / "readme.sql").write_text(ours)
    (folder / "20270101000000.sql").write_text(ours)
    (folder / "archive").mkdir()
    (folder / "archive" / "20270101000000_old.sql").write_text(ours)
    (folder / "20270101000000_with spaces, and ümlauts.sql").write_bytes(
        "-- ü\r\n".encode("latin-1")
    )
    (folder / "20270101000000_same_stamp.sql").write_bytes("select 1;".encode("utf-16"))
    assert len(install(folder, CARRIED, NOW).added) == len(CARRIED)
    assert install(folder, CARRIED, NOW).added == []


def test_copies_of_a_later_release_are_known_and_said(folder: Path, tmp_path: Path) -> None:
    newer = later_release(tmp_path / "release")
    install(folder, [*CARRIED, newer], NOW)
    done = install(folder, CARRIED, NOW)
    assert (done.added, [copy.name for copy in done.unknown]) == ([], ["90_greetings"])


def test_two_at_once_add_each_copy_once(folder: Path) -> None:
    """The second one, a moment later, would give its copies other stamps."""
    moments = [NOW + timedelta(seconds=100 * n) for n in range(6)]
    with ThreadPoolExecutor(len(moments)) as pool:
        done = list(pool.map(lambda now: install(folder, CARRIED, now), moments))
    assert sorted(len(each.added) for each in done) == [0, 0, 0, 0, 0, len(CARRIED)]
    assert len(list(folder.iterdir())) == len(CARRIED)


def test_one_that_is_killed_leaves_no_half_of_a_migration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves is what a kill before the third file's last step leaves."""
    renamed = list[Path]()
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        renamed.append(target)
        if len(renamed) == 3:
            raise KilledError
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KilledError):
        install(folder, CARRIED, NOW)
    monkeypatch.undo()
    assert len(list(folder.glob("*.sql"))) == 2
    assert (folder / PART).exists()
    assert len(install(folder, CARRIED, NOW).added) == len(CARRIED) - 2
    assert len(list(folder.iterdir())) == len(CARRIED)
    assert install(folder, CARRIED, NOW).changed == []


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
