"""Object stores: a local directory and something S3-compatible keep the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tallygate_server.lifecycle.objects import ObjectMissing, ObjectStore, ObjectStoreUnavailable
from tests.support.local_s3 import local_s3


@pytest.fixture(params=["file", "s3"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ObjectStore]:
    if request.param == "file":
        yield ObjectStore.open((tmp_path / "made when missing").as_uri())
        return
    async with local_s3() as s3:
        settings = {
            "AWS_ENDPOINT_URL": s3.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_REGION": "us-east-1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield ObjectStore.open("s3://bucket/with/prefix")


async def test_objects_are_written_read_listed_and_deleted(store: ObjectStore) -> None:
    await store.put("acme/aa/first", b"one")
    await store.put("acme/bb/second", b"0123456789")
    await store.put("acme/bb/second", b"abcdefghij")

    assert await store.get("acme/aa/first") == b"one"
    assert await store.get_range("acme/bb/second", start=2, length=3) == b"cde"
    assert await store.size("acme/bb/second") == 10
    assert sorted([each.path async for each in store.list("acme")]) == ["acme/aa/first", "acme/bb/second"]

    assert await store.delete("acme/aa/first")
    assert [each.path async for each in store.list("acme")] == ["acme/bb/second"]
    for read in (store.get("acme/aa/first"), store.size("acme/aa/first")):
        with pytest.raises(ObjectMissing):
            await read


async def test_nothing_there_is_no_error_to_delete(store: ObjectStore) -> None:
    await store.delete("acme/aa/nothing")

    assert [each async for each in store.list("acme")] == []


async def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = ObjectStore.open(tmp_path.as_uri())

    with pytest.raises(ObjectStoreUnavailable):
        await store.put("file/below", b"one")
