"""Clocks for what a client makes the server wait for. uvicorn has one for idle connections alone.

header   until the last line of it has come         408, or silence where nothing came
body     until its last byte, answered or not       408, or the end of the connection
answer   while the client does not read it          the end of the connection
refused  while a refused client still sends         the end of the connection
"""

from collections.abc import Iterable
from typing import Literal
from weakref import WeakKeyDictionary

import h11

from serve.http.connection import Connection
from serve.http.limits import Limits

Phase = Literal["header", "body", "answer", "refused"]


class Clocks:
    """Looks at all connections, again and again, and ends those that have been in one phase for too long."""

    def __init__(self, limits: Limits) -> None:
        self._limits_s: dict[Phase, float] = {
            "header": limits.header_timeout_s,
            "body": limits.body_timeout_s,
            "answer": limits.write_timeout_s,
            "refused": limits.linger_s,
        }
        # The phase of a connection, the request it belongs to, and since when.
        self._since: WeakKeyDictionary[Connection, tuple[Phase, object, float]] = WeakKeyDictionary()

    def look(self, connections: Iterable[object], now: float) -> None:
        """`now` by the clock of the event loop."""
        for each in list(connections):
            assert isinstance(each, Connection)
            phase = _phase(each)
            if phase is None:
                self._since.pop(each, None)
                continue
            before = self._since.get(each)
            if before is None or before[:2] != (phase, each.cycle):
                self._since[each] = (phase, each.cycle, now)
            elif now - before[2] > self._limits_s[phase]:
                self._end(each, phase)

    def _end(self, connection: Connection, phase: Phase) -> None:
        if connection.is_unanswered and (phase == "body" or (phase == "header" and _has_begun(connection))):
            seconds = self._limits_s[phase]
            connection.refuse(408, f"The {phase} of the request took longer than {seconds:g} s to arrive.")
        else:
            connection.transport.abort()


def _phase(connection: Connection) -> Phase | None:
    """What the client makes the server wait for; None if nothing, or only for another request."""
    if connection.is_refused:
        return "refused"
    if connection.transport.get_write_buffer_size() > 0:
        return "answer"
    if connection.conn.their_state is h11.SEND_BODY:
        return "body"
    if connection.is_between_requests and (connection.cycle is None or _has_begun(connection)):
        return "header"
    return None


def _has_begun(connection: Connection) -> bool:
    """Has a part of a header come?"""
    return len(connection.conn.trailing_data[0]) > 0
