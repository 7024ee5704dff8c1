from collections.abc import Callable

import pytest

from app.errors import TooManyFilters, TooManyStreams
from app.http.budgets import StreamBudget
from tests.factories import make_settings

FEW = {
    "max_streams_per_principal": 2,
    "max_streams_per_workspace": 4,
    "max_streams_per_address": 3,
    "max_filters_per_workspace": 2,
}
SETTINGS = make_settings(**FEW)


def enter(
    budget: StreamBudget, principal: str, workspace: str, address: str, filtered: str = ""
) -> Callable[[], None]:
    return budget.enter(
        principal=principal, workspace=workspace, address=address, filtered=filtered
    )


def place(who: tuple[str, str, str], n: object) -> tuple[str, str, str]:
    principal, workspace, address = (part.format(n=n) for part in who)
    return principal, workspace, address


@pytest.mark.parametrize(
    ("who", "limit"),
    [(("p", "{n}", "{n}"), 2), (("{n}", "w", "{n}"), 4), (("{n}", "{n}", "a"), 3)],
)
def test_streams_are_bounded_and_others_go_on(who: tuple[str, str, str], limit: int) -> None:
    budget = StreamBudget(SETTINGS)
    leave = [enter(budget, *place(who, n)) for n in range(limit)]
    with pytest.raises(TooManyStreams):
        enter(budget, *place(who, "x"))
    enter(budget, "other", "other", "other")()
    for _ in range(2):  # a place is given back once
        leave[0]()
    enter(budget, *place(who, "x"))
    with pytest.raises(TooManyStreams):
        enter(budget, *place(who, "y"))


def test_different_filters_are_bounded_and_equal_ones_shared() -> None:
    budget = StreamBudget(SETTINGS)
    leave = [enter(budget, str(n), "w", str(n), str(n)) for n in range(2)]
    with pytest.raises(TooManyFilters):
        enter(budget, "x", "w", "x", "2")
    enter(budget, "x", "w", "x", "1")()
    leave[0]()
    enter(budget, "x", "w", "x", "2")


def test_nothing_is_kept_of_streams_that_ended() -> None:
    budget = StreamBudget(SETTINGS)
    for n in range(1000):
        enter(budget, str(n), str(n), str(n))()
    assert (len(budget.open), len(budget.filters)) == (0, 0)
