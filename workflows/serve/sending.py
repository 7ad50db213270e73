"""Answers on their way out: piece by piece as they are read, and all together of so many bytes at most.

A body that is handed to the server whole lies in its memory until the client has read it, however slowly. So
large ones go out in pieces, each when the one before is nearly gone, and are counted meanwhile; where too
much waits to be read already, the next client is told to come again.
"""

from starlette.types import Message, Send

from tilevault.codecs.errors import Busy

__all__ = ["Sending"]

PIECE = 64 << 10
"""Bytes; what is not more is sent as it is, and not counted."""


class Sending:
    """The large answers of one server. For the event loop's thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes; one answer alone may be larger."""
        self.bytes = 0

    def through(self, send: Send) -> Send:
        """``send`` for one answer. Raises `Busy`, before anything is sent, where there is no room for it."""
        head: Message | None = None

        async def sent(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                # Held back until its body is seen to have room.
                head = message
                return
            body = message.get("body", b"")
            begins, head = head, None
            if (
                begins is not None
                and len(body) > PIECE
                and self.bytes
                and self.bytes + len(body) > self.limit
            ):
                raise Busy("too much is on its way to others")
            if begins is not None:
                await send(begins)
            await self._body(send, message, body)

        return sent

    def _check_room(self, size: int) -> None:
        if size > PIECE and self.bytes and self.bytes + size > self.limit:
            raise Busy("too much is on its way to others")

    async def _body(self, send: Send, message: Message, body: bytes) -> None:
        if message["type"] != "http.response.body" or len(body) <= PIECE:
            await send(message)
            return
        self.bytes += len(body)
        try:
            view, last = memoryview(body), len(body) - PIECE
            for at in range(0, len(body), PIECE):
                more = at < last or bool(message.get("more_body", False))
                await send({**message, "body": bytes(view[at : at + PIECE]), "more_body": more})
        finally:
            self.bytes -= len(body)
