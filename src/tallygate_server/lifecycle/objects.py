"""The object store: a local directory, or anything S3-compatible, by URL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url


class ObjectMissing(Exception):
    """There is no such object."""


class ObjectStoreUnavailable(Exception):
    """The store does not answer, or refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as the store lists it."""

    path: str
    size_bytes: int
    change_time: datetime


class ObjectStore:
    """Whole objects by path. What `put` has returned for survives a crash of this machine's processes and power."""

    def __init__(self, store: Any, directory: Path | None = None) -> None:
        """Use `open`."""
        self._store = store
        self._directory = directory

    @classmethod
    def open(cls, url: str) -> ObjectStore:
        """Open a store by URL: `file:///directory` (made when missing) or `s3://bucket/prefix`.

        Credentials and endpoints of S3 come from the usual variables of its clients.
        """
        parts = urlsplit(url)
        if parts.scheme == "file":
            directory = Path(unquote(parts.path))
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(LocalStore(directory, automatic_cleanup=True, mkdir=True), directory)
        return cls(from_url(url))

    async def put(self, path: str, content: bytes) -> None:
        """Write an object; the whole of it appears at once. Raises ObjectStoreUnavailable."""
        try:
            await obstore.put_async(self._store, path, content)
        except BaseError as error:
            raise ObjectStoreUnavailable(_sentence(error)) from error
        if self._directory is not None:
            await asyncio.to_thread(_flush, self._directory / path)

    async def get(self, path: str) -> bytes:
        """Read an object. Raises ObjectMissing, ObjectStoreUnavailable."""
        try:
            result = await obstore.get_async(self._store, path)
            return bytes(await result.bytes_async())
        except (NotFoundError, FileNotFoundError):
            raise ObjectMissing(path) from None
        except BaseError as error:
            raise ObjectStoreUnavailable(_sentence(error)) from error

    async def get_range(self, path: str, *, start: int, length: int) -> bytes:
        """Read a part of an object. Raises ObjectMissing, ObjectStoreUnavailable."""
        try:
            return bytes(await obstore.get_range_async(self._store, path, start=start, length=length))
        except (NotFoundError, FileNotFoundError):
            raise ObjectMissing(path) from None
        except BaseError as error:
            raise ObjectStoreUnavailable(_sentence(error)) from error

    async def size(self, path: str) -> int:
        """Return the bytes of an object. Raises ObjectMissing, ObjectStoreUnavailable."""
        try:
            return int((await obstore.head_async(self._store, path))["size"])
        except (NotFoundError, FileNotFoundError):
            raise ObjectMissing(path) from None
        except BaseError as error:
            raise ObjectStoreUnavailable(_sentence(error)) from error

    async def delete(self, path: str) -> bool:
        """Delete an object; False where there is none. Raises ObjectStoreUnavailable."""
        try:
            await obstore.delete_async(self._store, path)
        except (NotFoundError, FileNotFoundError):
            return False
        except BaseError as error:
            raise ObjectStoreUnavailable(_sentence(error)) from error
        return True

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """List the objects below a path. Raises ObjectStoreUnavailable."""
        try:
            async for batch in obstore.list(self._store, prefix=prefix):
                for meta in batch:
                    yield StoredObject(path=meta["path"], size_bytes=meta["size"], change_time=meta["last_modified"])
        except BaseError as error:
            raise ObjectStoreUnavailable(_sentence(error)) from error


def _sentence(error: BaseError) -> str:
    """Return the first line of what the library says; the rest is its own notation."""
    return str(error).partition("\n")[0]


def _flush(file: Path) -> None:
    """Bring a new file and its name to the disk."""
    for path in (file, file.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
