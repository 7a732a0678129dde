"""A TCP proxy in front of one broker, which can disturb the network of open connections.

In: a port to listen on and the broker's port. Out: the same bytes, unless a mode other than `pass`
is set. Like TCP, it never changes or reorders bytes.
"""

import asyncio
import threading
from typing import Final, Literal

Mode = Literal["pass", "refuse", "silent", "slow", "half"]
"""pass: forward everything. refuse: reset open and new connections. silent: accept connections, but
forward nothing, like a pulled cable. slow: forward each chunk after `DELAY_S`. half: close the
broker's side of each open connection and keep the client's side open; new connections work."""

DELAY_S: Final = 0.15
_CHUNK_BYTES: Final = 65_536


class Proxy:
    """Runs in a thread of its own from its construction until `close`."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._mode: Mode = "pass"
        self._flows: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()  # whether bytes are forwarded
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", port))  # type: ignore[no-untyped-call]

    def set(self, mode: Mode) -> None:
        """Set the mode for open and new connections."""
        self._call(self._set(mode))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Reset all connections and stop."""
        self.set("refuse")
        self._server.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work):  # type: ignore[no-untyped-def]  # for any coroutine
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _set(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        if mode == "silent":
            self._open.clear()
        else:
            self._open.set()
        if mode == "half":
            for _, upstream in self._flows:
                upstream.transport.abort()
        elif mode == "refuse" or before == "half":
            # After `half`, the client's side would never close by itself.
            for client, upstream in self._flows:
                client.transport.abort()
                upstream.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._mode == "refuse":
            client.transport.abort()
            return
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the broker is down
            client.transport.abort()
            return
        flow = client, upstream
        self._flows.add(flow)
        try:
            await asyncio.gather(self._pump(reader, upstream), self._pump(answers, client))
        finally:
            self._flows.discard(flow)
            client.transport.abort()
            upstream.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                if self._mode == "slow":
                    await asyncio.sleep(DELAY_S)
                await self._open.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass  # reset by either side; the other direction ends too
        if self._mode != "half":
            writer.transport.abort()
