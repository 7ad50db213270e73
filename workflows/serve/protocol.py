"""Uvicorn's HTTP/1.1 with the patience that a server needs: headers, bodies and readers have a time each.

Uvicorn ends idle connections between requests only. A client that sends its headers a byte at a time, a body
that never ends, or a reader that does not read would hold its connection for ever.
"""

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tilevault.workflows.serve.settings import Limits

__all__ = ["patient_protocol"]


def patient_protocol(limits: Limits) -> type[H11Protocol]:
    """The protocol class with these limits; uvicorn makes one object of it for each connection."""

    class Patient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            self._timers: dict[str, asyncio.TimerHandle] = {}
            self._received, self._was_paused = 0, False
            self._unread = 0
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._end()
                return
            self._set("headers", limits.header_seconds, self._end)

        def connection_lost(self, exc: Exception | None) -> None:
            for name in list(self._timers):
                self._unset(name)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._received += len(data)
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            if self.conn.their_state is h11.SEND_BODY:
                # The rest of a body that nobody wants: closed at once, the client might not see the answer.
                self._set("unwanted", limits.header_seconds, self._end_unwanted)
            super().on_response_complete()
            self._watch()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            # Closing waits for what the client has still to read.
            self._set("closing", limits.idle_seconds, self._end)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_reader()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unset("writing")

        def _watch(self) -> None:
            """Set the timer that the state of the request calls for."""
            state = self.conn.their_state
            if state is not h11.IDLE or not self.conn.trailing_data[0]:
                self._unset("headers")
            elif "headers" not in self._timers:
                self._set("headers", limits.header_seconds, self._end)
            if state is not h11.SEND_BODY:
                self._unset("body")
            elif "body" not in self._timers:
                self._expect_body()

        def _expect_body(self) -> None:
            self._received, self._was_paused = 0, self.flow.read_paused
            self._set("body", limits.idle_seconds, self._look_at_body)

        def _look_at_body(self) -> None:
            """Once in a while: has enough come, or was it this side that did not read?"""
            paused = self._was_paused or self.flow.read_paused
            if not paused and self._received < limits.slowest_bytes * limits.idle_seconds:
                self._end()
            else:
                self._expect_body()

        def _expect_reader(self) -> None:
            self._unread = self._outgoing()
            self._set("writing", limits.idle_seconds, self._look_at_reader)

        def _look_at_reader(self) -> None:
            """Once in a while: a slow reader of a long answer is a reader nevertheless."""
            if self._unread - self._outgoing() < limits.slowest_bytes * limits.idle_seconds:
                self._end()
            else:
                self._expect_reader()

        def _outgoing(self) -> int:
            """Bytes that the client has not acknowledged: ours, and those that the system holds for it."""
            held = bytes(4)
            with contextlib.suppress(OSError):
                # The system takes more only when a third of its megabytes is free again.
                held = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
            return int(self.transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder))

        def _end_unwanted(self) -> None:
            if self.conn.their_state is h11.SEND_BODY:
                self._end()

        def _end(self) -> None:
            self.transport.abort()

        def _set(self, name: str, seconds: float, action: Callable[[], None]) -> None:
            self._unset(name)
            self._timers[name] = self.loop.call_later(seconds, action)

        def _unset(self, name: str) -> None:
            timer = self._timers.pop(name, None)
            if timer is not None:
                timer.cancel()

    return Patient
