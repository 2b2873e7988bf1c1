"""Page tokens: good for the call that made them, for a day."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest

from tallygate.v1.entitlement_service_pb2 import ListEntitlementsRequest
from tallygate.v1.usage_service_pb2 import ListUsageEntriesRequest
from tallygate_server.domain.limits import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX
from tallygate_server.errors import PageTokenInvalid
from tallygate_server.transport import paging
from tests.support.use_case_fakes import NOW


def _request(**changes: object) -> ListUsageEntriesRequest:
    return ListUsageEntriesRequest(**{"tenant_id": "lekhak", "account_id": "a", **changes})  # type: ignore[arg-type]


def test_a_token_gives_its_position_back() -> None:
    token = paging.page_token(_request(page_size=10), "4711", now=NOW)

    assert paging.page_position(_request(page_token=token, page_size=20), now=NOW) == "4711"


def test_no_token_is_the_first_page() -> None:
    assert paging.page_position(_request(), now=NOW) == ""


@pytest.mark.parametrize("position", ["", "x", "feature_ü", "y" * 500])
def test_a_token_fits_the_rule_for_tokens(position: str) -> None:
    token = paging.page_token(_request(), position, now=NOW)

    assert len(token) <= 1_000
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def test_a_token_of_other_filters_is_refused() -> None:
    token = paging.page_token(_request(), "4711", now=NOW)

    with pytest.raises(PageTokenInvalid) as caught:
        paging.page_position(_request(page_token=token, account_id="b"), now=NOW)
    assert caught.value.violations[0].field == "page_token"


def test_a_token_of_another_call_is_refused() -> None:
    token = paging.page_token(_request(), "4711", now=NOW)

    with pytest.raises(PageTokenInvalid):
        paging.page_position(ListEntitlementsRequest(tenant_id="lekhak", account_id="a", page_token=token), now=NOW)


def test_a_token_lives_for_a_day() -> None:
    token = paging.page_token(_request(), "4711", now=NOW)
    request = _request(page_token=token)

    assert paging.page_position(request, now=NOW + timedelta(days=1)) == "4711"
    with pytest.raises(PageTokenInvalid):
        paging.page_position(request, now=NOW + timedelta(days=1, seconds=1))


@pytest.mark.parametrize("token", ["x", "AAAA", "=", "_" * 40, "A" * 1_000])
def test_anything_else_is_refused(token: str) -> None:
    with pytest.raises(PageTokenInvalid):
        paging.page_position(_request(page_token=token), now=NOW)


def test_every_flipped_bit_is_noticed() -> None:
    token = paging.page_token(_request(), "4711", now=NOW)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))

    for bit in range(len(raw) * 8):
        altered = bytearray(raw)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PageTokenInvalid):
            paging.page_position(_request(page_token=base64.urlsafe_b64encode(altered).decode()), now=NOW)


def test_page_sizes_have_a_default_and_a_bound() -> None:
    assert paging.page_size_of(0) == PAGE_SIZE_DEFAULT
    assert paging.page_size_of(7) == 7
    assert paging.page_size_of(PAGE_SIZE_MAX + 1) == PAGE_SIZE_MAX


def test_pages_of_keys_cover_each_key_once() -> None:
    keys = [f"k{i:02}" for i in range(7)]
    seen: list[str] = []
    request = ListEntitlementsRequest(tenant_id="lekhak", account_id="a", page_size=3)
    while True:
        page, token = paging.page_of(keys, request, now=NOW)
        seen += keys[page]
        if not token:
            break
        request.page_token = token

    assert seen == keys


def test_a_full_last_page_has_no_next() -> None:
    request = ListEntitlementsRequest(page_size=3)

    assert paging.page_of(["a", "b", "c"], request, now=NOW) == (slice(0, 3), "")
    assert paging.page_of([], request, now=NOW) == (slice(0, 0), "")
