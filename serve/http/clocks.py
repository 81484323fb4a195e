"""Clocks for what a client makes the server wait for. uvicorn has one for idle connections alone.

They also hold all unread answers together to the memory that is set aside for them.

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
        self._max_unread_bytes = limits.max_unread_bytes
        # The phase of a connection, the request it belongs to, and since when.
        self._since: WeakKeyDictionary[Connection, tuple[Phase, object, float]] = WeakKeyDictionary()

    def look(self, connections: Iterable[object], now: float) -> None:
        """`now` by the clock of the event loop."""
        ours = [each for each in connections if isinstance(each, Connection)]
        for each in ours:
            phase = _phase(each)
            if phase is None:
                self._since.pop(each, None)
                continue
            before = self._since.get(each)
            if before is None or before[:2] != (phase, each.cycle):
                self._since[each] = (phase, each.cycle, now)
            elif now - before[2] > self._limits_s[phase]:
                self._end(each, phase)
        self._make_room(ours)

    def _make_room(self, connections: Iterable[Connection]) -> None:
        """End those whose answers have been unread for longest, until the others' fit into the memory for them."""
        sizes = {each: each.transport.get_write_buffer_size() for each in connections}
        surplus = sum(sizes.values()) - self._max_unread_bytes
        if surplus <= 0:
            return
        for each in sorted((each for each in sizes if sizes[each] > 0), key=lambda each: self._since[each][2]):
            each.metrics.errors.labels("unread").inc()
            each.transport.abort()
            surplus -= sizes[each]
            if surplus <= 0:
                return

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
