"""An orchestrator that only answers: `python -m tests.bench.host.counting_orcd` prints its port, then a line for each request.

Each line has the bytes of the request, header included, and the last part of its path.
"""

from __future__ import annotations

import asyncio

END = b"\r\n\r\n"
LENGTH = b"content-length:"


async def main() -> None:
    """Serve until ended."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(END)
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(LENGTH)]
            length = int(lengths[0].removeprefix(LENGTH))
            await reader.readexactly(length)
            path = head.split()[1].decode()
            print(len(head) + length, path.rsplit("/", 1)[1], flush=True)
            writer.write(_answer(path))
    except asyncio.IncompleteReadError:
        writer.close()


def _answer(path: str) -> bytes:
    if not path.endswith("/register"):
        return b"HTTP/1.1 204 No Content" + END
    body = b'{"heartbeat_interval_ms": 1000}'
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d" % len(body) + END + body


if __name__ == "__main__":
    asyncio.run(main())
