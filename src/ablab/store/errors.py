"""What a store says no with."""

from __future__ import annotations

from collections.abc import Hashable

from ablab.errors import UserError


class StoreError(UserError):
    """The store as a whole cannot be used: no such place, no rights, out of reach, of a newer format."""


class DamagedError(UserError):
    """A published stage is not as it was published; `fingerprint` says which."""

    def __init__(self, fingerprint: str, what: str) -> None:
        super().__init__(f"{what}; `ablab store verify` sets the stage aside, and the next sweep runs it again")
        self.fingerprint = fingerprint


class BusyError(Exception):
    """Another holder has the stage.

    beat: what to compare and, unchanged for `Store.ttl` seconds of the caller's monotonic clock, to claim with.
    host, pid: whose it is, for people.
    """

    def __init__(self, fingerprint: str, beat: Hashable, host: str, pid: int | None) -> None:
        super().__init__(f"{fingerprint}: held by process {pid} on {host}")
        self.fingerprint, self.beat, self.host, self.pid = fingerprint, beat, host, pid


class LostLeaseError(Exception):
    """The holder was taken for dead and another one goes on with the stage: what this one makes counts no more."""
