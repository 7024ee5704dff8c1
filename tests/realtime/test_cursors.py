import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.tickets import derive_key
from app.realtime.cursors import Cursors, Position

FEED, OTHER_FEED = UUID(int=1), UUID(int=2)
KEY, OTHER_KEY = derive_key("one secret", "cursor"), derive_key("another secret", "cursor")


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**48 - 1))
def test_a_cursor_reads_as_it_was_written(epoch: int, pos: int) -> None:
    cursors = Cursors(KEY)
    assert cursors.read(FEED, cursors.write(FEED, epoch, pos)) == Position(epoch, pos)


def test_a_cursor_is_22_characters_that_need_no_escaping_in_a_url() -> None:
    cursor = Cursors(KEY).write(FEED, 1, 5)
    assert len(cursor) == 22
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_two_processes_with_one_secret_read_each_other() -> None:
    assert Cursors(KEY).read(FEED, Cursors(KEY).write(FEED, 3, 7)) == Position(3, 7)


def test_another_key_reads_nothing() -> None:
    assert Cursors(OTHER_KEY).read(FEED, Cursors(KEY).write(FEED, 3, 7)) is None


def test_neighbouring_positions_show_no_order() -> None:
    shared = [
        sum(
            a == b
            for a, b in zip(
                Cursors(KEY).write(FEED, 1, n), Cursors(KEY).write(FEED, 1, n + 1), strict=True
            )
        )
        for n in range(1000)
    ]
    # Two random texts of 22 letters share one in three; a shared half would give positions away.
    assert max(shared) < 11


@given(st.integers(0, 127))
def test_a_flipped_bit_is_noticed(bit: int) -> None:
    cursors = Cursors(KEY)
    block = bytearray(base64.urlsafe_b64decode(cursors.write(FEED, 1, 5) + "=="))
    block[bit // 8] ^= 1 << bit % 8
    assert cursors.read(FEED, base64.urlsafe_b64encode(bytes(block))[:22].decode()) is None


@pytest.mark.parametrize(
    "garbage",
    ["", "x", "é", "A" * 21, "A" * 22, "A" * 23, "A" * 200, "====", "\0", "a b", "+/" * 11],
)
def test_garbage_is_no_cursor(garbage: str) -> None:
    assert Cursors(KEY).read(FEED, garbage) is None


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert Cursors(KEY).read(FEED, text) is None


def test_two_cursors_of_one_position_differ() -> None:
    cursors = Cursors(KEY)
    assert len({cursors.write(FEED, 1, 5) for _ in range(100)}) == 100


def test_a_cursor_is_good_for_its_own_feed_alone() -> None:
    cursors = Cursors(KEY)
    assert cursors.read(OTHER_FEED, cursors.write(FEED, 1, 5)) is None
