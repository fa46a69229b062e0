"""A door before PostgreSQL that goes silent: what no mock of a broken connection shows."""

import asyncio


class Proxy:
    """A TCP door before PostgreSQL that can go silent without closing anything, as a pulled cable does."""

    def __init__(self, socket_path: str) -> None:
        self.silent = False
        self._socket_path = socket_path
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._socket_path)
        self._writers += [writer, up_writer]
        for one in (self._pass(reader, up_writer), self._pass(up_reader, writer)):
            self._tasks.append(asyncio.create_task(one))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.silent:
                writer.write(data)
        writer.close()
