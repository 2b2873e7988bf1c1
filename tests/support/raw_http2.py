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


async def stream_ends(port: int, sent: bytes, *, timeout_s: float = 60.0) -> bool:
    """Send frames on a new connection; tell whether the server ends stream 1, or the connection, in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_PREFACE + frame(SETTINGS, 0, 0) + sent)
        async with asyncio.timeout(timeout_s):
            while True:
                head = await reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                await reader.readexactly(int.from_bytes(head[:3]))
                if stream == 1 and (kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)):
                    return True
    except (asyncio.IncompleteReadError, ConnectionError):
        return True
    except TimeoutError:
        return False
    finally:
        writer.close()


def _string(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127
    return bytes((len(raw),)) + raw
