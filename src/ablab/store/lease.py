"""Who works on a stage: leases with fencing tokens.

An attempt takes the next token by an exclusive creation; the highest token is the holder. The holder counts up a beat
several times in `ttl`. No two machines' clocks are ever compared: another process takes the holder for dead when its
beat has not changed for `ttl` seconds of *that* process's monotonic time, or at once when the lease was released or
its process, known by boot, PID namespace, PID and time of start, is gone from this machine. A holder that was only
asleep finds a higher token when it wakes: it can write into its own attempt alone and publishes nothing.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ablab import processes
from ablab.errors import UserError
from ablab.store import files
from ablab.store.disk import Disk
from ablab.store.errors import LostLeaseError

if TYPE_CHECKING:
    from ablab.store.bucket import Bucket

BEATS = 6  # in a ttl: that many in a row must fail before the holder is taken for dead
Beat = tuple[int, str, str]  # token, nonce, count


@dataclass(frozen=True)
class Standing:
    """The newest attempt at a stage; token 0: there is none. free: nobody holds it. gone: its process is no more."""

    token: int
    lease: dict[str, Any]
    beat: Beat
    free: bool
    gone: bool = False


def newest(place: Disk | Bucket, fingerprint: str) -> int:
    """The highest token; 0 if there is none."""
    return max((int(name) for name in place.children(f"work/{fingerprint}") if name.isdigit()), default=0)


def standing(place: Disk | Bucket, fingerprint: str) -> Standing:
    """Who holds a stage."""
    token = newest(place, fingerprint)
    folder = files.token_place(fingerprint, token)
    names = place.children(folder) if token else []
    if files.LEASE not in names or files.RELEASED in names:
        return Standing(token, {}, (token, "", ""), free=True)
    lease: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError, AttributeError):  # one that was cut short has a holder, unknown
        lease = dict(json.loads(place.read(f"{folder}/{files.LEASE}")).items())
    nonce = str(lease.get("nonce", ""))
    count = ""
    with suppress(FileNotFoundError):
        count = place.read(f"{folder}/{files.beat_name(nonce)}").decode(errors="replace")
    gone = processes.is_gone(lease)
    return Standing(token, lease, (token, nonce, count), free=gone, gone=gone)


def new_lease() -> dict[str, Any]:
    """What says that this process holds a stage. `nonce` tells attempts apart that have the same token."""
    return {"nonce": secrets.token_hex(8), **processes.this(), "since": time.time()}  # since: for people


class Hold:
    """A stage held for this process alone, until the `with` block ends.

    work: a folder on this machine. Its files survive a crash and go to the successor (in object storage: those of the
    last `keep`), all but what its folder `out` holds.
    """

    def __init__(self, place: Disk | Bucket, fingerprint: str, token: int, nonce: str, work: Path, ttl: float) -> None:
        self.fingerprint, self.token, self.work = fingerprint, token, work
        self.published = False
        self._place, self._nonce, self._ttl = place, nonce, ttl
        self._folder = files.token_place(fingerprint, token)
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name=f"lease {fingerprint[:8]}", daemon=True)

    def __enter__(self) -> Hold:
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beating.join()
        if self.published:
            self._place.leave(self.work)
            return
        lost = False
        with suppress(OSError, UserError):  # then the lease ends with this process, or after ttl
            lost = not self._is_mine()
            if not lost and self._place.exists(f"{files.stage_place(self.fingerprint)}/stage.json"):
                self._place.remove(f"work/{self.fingerprint}")
            elif not lost:
                self._place.release(self.fingerprint, self.token, self.work)
        self._place.leave(self.work)
        if lost and isinstance(error, Exception) and not isinstance(error, LostLeaseError):
            raise self._lost() from error  # its files were taken away under its feet: that is all there is to say

    def keep(self) -> None:
        """Carry the work files that changed to the store; nothing to do on a disk.

        Raises LostLeaseError, StoreError.
        """
        self._place.keep(self.fingerprint, self.token, self.work)

    def check(self) -> None:
        """Raises LostLeaseError if another attempt has superseded this one."""
        if not self._is_mine():
            raise self._lost()

    def stopping(self) -> bool:
        """Whether somebody asked that this stage be left unfinished."""
        return self._place.exists(f"{self._folder}/{files.STOP}")

    def _is_mine(self) -> bool:
        now = standing(self._place, self.fingerprint)
        return (now.token, now.beat[1]) == (self.token, self._nonce)

    def _lost(self) -> LostLeaseError:
        return LostLeaseError(f"{self.fingerprint}: attempt {self.token} was taken for dead and another one goes on")

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(self._ttl / BEATS):
            count += 1
            try:
                self._place.beat(self.fingerprint, self.token, self._nonce, count)
            except FileNotFoundError:  # superseded
                return
            except (OSError, UserError):  # out of reach for now: the next one may get there
                continue
