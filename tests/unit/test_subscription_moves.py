"""Every pair of states, against a table written by hand: what is not in it is refused, naming both."""

from __future__ import annotations

import itertools

import pytest

from tallygate_server.domain.subscription import LIVE_STATES, TRANSITIONS, SubscriptionState, may_move
from tallygate_server.errors import IllegalTransition
from tallygate_server.subscriptions.decisions import demand_move
from tests.support.builders import a_subscription

STATES = list(SubscriptionState)

# Rows are states before, columns states after, both in the order of the header.
TABLE = """
                    inc  inx  tri  act  pas  unp  pau  can  exp
incomplete           .    x    x    x    .    .    .    x    .
incomplete_expired   .    .    .    .    .    .    .    .    .
trialing             .    .    .    x    x    .    x    x    x
active               .    .    .    .    x    x    x    x    x
past_due             .    .    .    x    .    x    x    x    x
unpaid               .    .    .    x    .    .    .    x    x
paused               .    .    x    x    x    .    .    x    x
canceled             .    .    .    .    .    .    .    .    .
expired              .    .    .    .    .    .    .    .    .
"""


def allowed() -> set[tuple[SubscriptionState, SubscriptionState]]:
    columns = [
        SubscriptionState.INCOMPLETE,
        SubscriptionState.INCOMPLETE_EXPIRED,
        SubscriptionState.TRIALING,
        SubscriptionState.ACTIVE,
        SubscriptionState.PAST_DUE,
        SubscriptionState.UNPAID,
        SubscriptionState.PAUSED,
        SubscriptionState.CANCELED,
        SubscriptionState.EXPIRED,
    ]
    pairs = set()
    for line in TABLE.strip().splitlines()[1:]:
        name, *cells = line.split()
        pairs |= {(SubscriptionState(name), column) for column, cell in zip(columns, cells, strict=True) if cell == "x"}
    return pairs


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_each_of_the_81_pairs_is_as_written(before: SubscriptionState, after: SubscriptionState) -> None:
    subscription = a_subscription(state=before).subscription

    if (before, after) in allowed():
        assert may_move(before, after)
        demand_move(subscription, after)
    else:
        assert not may_move(before, after)
        with pytest.raises(IllegalTransition) as caught:
            demand_move(subscription, after)
        assert caught.value.facts == {"before": before.value, "after": after.value}
        assert str(caught.value) == f"a subscription cannot go from {before.value} to {after.value}"


def test_the_table_speaks_of_every_state() -> None:
    assert set(TRANSITIONS) == set(SubscriptionState)
    assert len(allowed()) == sum(len(following) for following in TRANSITIONS.values())


def test_what_has_ended_goes_nowhere() -> None:
    assert set(SubscriptionState) - LIVE_STATES == {
        SubscriptionState.INCOMPLETE_EXPIRED,
        SubscriptionState.CANCELED,
        SubscriptionState.EXPIRED,
    }
