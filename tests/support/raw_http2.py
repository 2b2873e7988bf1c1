"""A few frames of HTTP/2 by hand, for what no well-behaved gRPC client sends."""

from __future__ import annotations

import asyncio

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0x0, 0x1, 0x3, 0x4
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Build one frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def headers(path: str) -> bytes:
    """Encode the headers of a gRPC call as literals that no table needs to know."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "test",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b""
    for name, value in fields.items():
        block += b"\x00" + _string(name) + _string(value)
    return block


def message(payload: bytes) -> bytes:
    """Put the gRPC prefix before a message."""
    return b"\0" + len(payload).to_bytes(4) + payload


async def exchange(port: int, *frames: bytes, until: bytes, timeout_s: float = 5.0) -> bytes:
    """Send frames on a new connection; return all bytes received up to `until`, or up to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(_PREFACE + frame(SETTINGS, 0, 0) + b"".join(frames))
        async with asyncio.timeout(timeout_s):
            while until not in received:
                chunk = await reader.read(65_536)
                if not chunk:
                    break
                received += chunk
    finally:
        writer.close()
    return received


def _string(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127
    return bytes((len(raw),)) + raw
