"""As much of S3 as an object store needs, over HTTP on a port of its own: objects in memory, nothing checked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from xml.sax.saxutils import escape, unescape

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.eventually import eventually


@dataclass(slots=True)
class LocalS3:
    """What is stored, by `/bucket/key`, and where it is served."""

    address: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        path = request.url.path
        if request.method == "PUT":
            self.objects[path] = await request.body()
            return Response(headers={"ETag": _etag(self.objects[path])})
        if request.method == "DELETE":
            self.objects.pop(path, None)
            return Response(status_code=204)
        if request.method == "POST":
            bucket = path.rstrip("/") + "/"
            keys = re.findall(r"<Key>([^<]*)</Key>", (await request.body()).decode())
            for key in keys:
                self.objects.pop(bucket + unescape(key), None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return Response(f"<DeleteResult>{deleted}</DeleteResult>", media_type="application/xml")
        if "list-type" in request.query_params:
            return self._listed(path.rstrip("/") + "/", request.query_params.get("prefix", ""))
        content = self.objects.get(path)
        if content is None:
            return Response("<Error><Code>NoSuchKey</Code></Error>", status_code=404, media_type="application/xml")
        headers = {"ETag": _etag(content), "Last-Modified": formatdate(0, usegmt=True)}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(content))})
        wanted = request.headers.get("range")
        if wanted is None:
            return Response(content, headers=headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return Response(part, status_code=206, headers=headers)

    def _listed(self, bucket: str, prefix: str) -> Response:
        found = "".join(
            f"<Contents><Key>{escape(path.removeprefix(bucket))}</Key><Size>{len(content)}</Size>"
            f"<ETag>{escape(_etag(content))}</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for path, content in sorted(self.objects.items())
            if path.startswith(bucket + prefix)
        )
        return Response(
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>",
            media_type="application/xml",
        )


@asynccontextmanager
async def local_s3() -> AsyncIterator[LocalS3]:
    """Serve until the block is left."""
    store = LocalS3()
    methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", store.answer, methods=methods)])
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    try:
        await eventually(lambda: server.started or serving.done())
        port = server.servers[0].sockets[0].getsockname()[1]
        store.address = f"http://127.0.0.1:{port}"
        yield store
    finally:
        server.should_exit = True
        await serving


def _etag(content: bytes) -> str:
    return f'"{md5(content, usedforsecurity=False).hexdigest()}"'
