"""What the server knows and the application must: how many clients there are, and whether it is on its way down."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass
class Condition:
    """Changed by the server (server.py), read by whoever answers (gate.py)."""

    max_connections: int
    connections: Collection[object] = ()
    is_draining: bool = False

    @property
    def is_crowded(self) -> bool:
        """Are more connections open than may?"""
        return len(self.connections) > self.max_connections
