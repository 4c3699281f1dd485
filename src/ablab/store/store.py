"""The store as everybody else sees it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab.store import files
from ablab.store.disk import Disk
from ablab.store.errors import BusyError, DamagedError, StoreError
from ablab.store.lease import Hold, new_lease, newest, standing

if TYPE_CHECKING:
    from ablab.store.bucket import Bucket

FORMAT = 2
TTL = 60.0  # seconds


class Store:
    """Results by fingerprint in a folder or under a URL of fsspec's.

    url: a path, `file://...`, `s3://bucket/prefix`, ... ttl: seconds after which a silent holder is taken for dead; all
    that share a store must have the same. Nothing is written before the first claim.
    Raises StoreError for one that cannot be used.
    """

    def __init__(self, url: str | Path, ttl: float = TTL) -> None:
        address = str(url)
        self.address = address  # with a password, if it has one; `url` is for people
        self.ttl = ttl
        protocol, has_protocol, rest = address.partition("://")
        self.on_disk = not has_protocol or protocol in ("file", "local")
        if not address.strip():
            raise StoreError(
                f"store={address}: expected a folder such as .ablab/store, or a URL such as s3://bucket/ablab"
            )
        if slip := re.match(r"([a-z][a-z0-9]+):/*", address) if not has_protocol else None:
            rest_of_it = address[slip.end() :]
            raise StoreError(f"store={address}: expected a folder or a URL; did you mean {slip[1]}://{rest_of_it}?")
        self.place: Disk | Bucket
        if self.on_disk:
            self.place = Disk(Path(rest if has_protocol else address).expanduser().resolve())
            self.address = str(self.place.root)
        else:
            from ablab.store.bucket import Bucket  # fsspec takes a while, and a disk needs none of it

            shown = re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", address).rstrip("/")
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ablab"
            self.place = Bucket(address, shown, cache / hashlib.sha256(shown.encode()).hexdigest()[:16])
        self.url, self.local = self.place.url, self.place.local
        self._marked = self._known_format()

    @property
    def data_cache(self) -> Path:
        """Where it is remembered what data sets hold."""
        return self.local / "data.json"

    def folder(self, fingerprint: str) -> Path:
        """Where a stage's files are on this machine, or will be."""
        return self.local / files.stage_place(fingerprint)

    # ------------------------------------------------------------------------------------------ stages

    def published(self) -> set[str]:
        """Fingerprints of all published stages, by one listing."""
        return self.place.published()

    def has(self, fingerprint: str) -> bool:
        return self.place.exists(f"{files.stage_place(fingerprint)}/stage.json")

    def read(self, fingerprint: str) -> dict[str, Any]:
        """A published stage's record. Raises DamagedError."""
        record = self._located(fingerprint)
        record.pop("at", None)
        return record

    def verify(self, fingerprint: str) -> None:
        """Compare a stage's files, where they are stored, with their checksums. Raises DamagedError."""
        record = self._located(fingerprint)
        for name, expected in record["files"].items():
            if self.place.digest(fingerprint, record, name) != expected:
                file = self.place.shown(f"{files.stage_place(fingerprint)}/{name}")
                raise DamagedError(fingerprint, f"{file}: not as it was published")

    def checked(self, fingerprint: str) -> Path:
        """A folder on this machine with a published stage's files, which match their checksums. Raises DamagedError."""
        if self.on_disk:
            self.verify(fingerprint)
        return self.place.fetch(fingerprint, self._located(fingerprint))

    def content(self, fingerprint: str, name: str) -> bytes:
        """One file of a published stage, and no other fetched with it. Raises DamagedError."""
        record = self._located(fingerprint)
        at = f"{record['at']}/" if "at" in record else ""
        file = f"{files.stage_place(fingerprint)}/{at}{name}"
        try:
            content = self.place.read(file)
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != record["files"].get(name):
            raise DamagedError(fingerprint, f"{self.place.shown(file)}: not as it was published")
        return content

    def quarantine(self, fingerprint: str) -> str | None:
        """Move a damaged stage aside, so that it can run again: where it lies now.

        None if nothing was moved: it is whole, since somebody ran it again, or somebody else moved it.
        """
        try:
            self.verify(fingerprint)
        except DamagedError:
            return self.place.quarantine(fingerprint)
        return None

    def remove(self, fingerprint: str) -> None:
        """Delete a published stage."""
        self.place.remove(files.stage_place(fingerprint))

    # ------------------------------------------------------------------------------------------ work

    def claim(self, fingerprint: str, expired: Hashable = None) -> Hold:
        """Hold a stage; enter the Hold at once.

        expired: the `beat` of a BusyError that the caller has seen unchanged for longer than `ttl` seconds of its own
        monotonic time. Raises BusyError at once if somebody else holds it.
        """
        self._mark()
        while True:
            now = standing(self.place, fingerprint)
            # Of a holder that is gone, a program that it started may still be on its way out.
            if (not now.free and now.beat != expired) or (now.free and self.place.guarded(fingerprint)):
                raise BusyError(fingerprint, now.beat, str(now.lease.get("host", "?")), now.lease.get("pid"))
            lease = new_lease()
            work = self.place.take(fingerprint, now.token + 1, lease)
            if work is None:
                continue
            if newest(self.place, fingerprint) == now.token + 1:
                return Hold(self.place, fingerprint, now.token + 1, lease["nonce"], work, self.ttl)
            self.place.remove(files.token_place(fingerprint, now.token + 1))  # others came and went meanwhile
            self.place.leave(work)

    def publish(self, hold: Hold, record: dict[str, Any], written: Path) -> dict[str, Any]:
        """Publish the folder `written`, which lies in `hold.work`, as the stage's result.

        Checksums of its files join the record. Returns the record that is there already if somebody was first.
        Raises LostLeaseError, and ValueError for a folder in the folder or what JSON cannot say.
        """
        fingerprint = hold.fingerprint
        hold.check()
        for path in written.iterdir():
            if path.is_symlink() or not path.is_file() or not files.is_plain(path.name):
                raise ValueError(f"{path}: a stage's results are plain files")
        record = record | {
            "files": {f.name: files.checksum(f) for f in sorted(written.iterdir()) if f.name != "stage.json"}
        }
        if not self.place.publish(fingerprint, hold.token, record, written, hold.check):
            try:
                record = self.read(fingerprint)
            except DamagedError:
                self.place.quarantine(fingerprint)
                return self.publish(hold, record, written)
        hold.published = True
        with suppress(OSError, StoreError):  # it is published, whatever becomes of the work files
            self.place.remove(f"work/{fingerprint}")
        return record

    def ask_to_stop(self, fingerprint: str) -> bool:
        """Ask who holds a stage to leave it unfinished; False if nobody does."""
        now = standing(self.place, fingerprint)
        if not now.free:
            self.place.write(f"{files.token_place(fingerprint, now.token)}/{files.STOP}", b"")
        return not now.free

    def holders(self) -> list[dict[str, Any]]:
        """Leases that were not released: {"fingerprint", "token", "host", "pid", "since", "gone", "beat"}.

        since: Unix seconds. gone: its process is known to be no more; one of another machine is dead if its beat stays
        for `ttl`.
        """
        found = []
        for fingerprint in sorted(self.place.children("work")):
            if fingerprint.startswith("."):
                continue
            now = standing(self.place, fingerprint)
            if not now.free or now.gone:
                told = {key: now.lease.get(key) for key in ("host", "pid", "since")}
                found.append(
                    {"fingerprint": fingerprint, "token": now.token, **told, "gone": now.gone, "beat": now.beat}
                )
        return found

    # ------------------------------------------------------------------------------------------ documents

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A small shared document; None if it is not there. Raises StoreError for a damaged one."""
        try:
            document = json.loads(self.place.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{self.place.shown(name)}: damaged ({error}); delete it") from None
        if not isinstance(document, dict):
            raise StoreError(f"{self.place.shown(name)}: damaged (a mapping was expected); delete it")
        return document

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Write a small shared document, whole or not at all."""
        self._mark()
        self.place.write(name, json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode())

    def documents(self, folder: str) -> list[str]:
        """Names of the documents in a folder, such as `studies`."""
        return sorted(f"{folder}/{name}" for name in self.place.children(folder) if re.fullmatch(r"[^.].*\.json", name))

    # ------------------------------------------------------------------------------------------ inside

    def _known_format(self) -> bool:
        """Whether the store says its format. Raises StoreError for one that this program does not know."""
        try:
            found = self.read_json("store.json")
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.EACCES):
                raise
            why = "a file is where a folder should be" if error.errno == errno.ENOTDIR else "reading is not permitted"
            raise StoreError(f"store={self.url}: the store cannot be there: {why}") from None
        if found is None:  # new, or of the first format, whose stages are the same
            return False
        written = found.get("format")
        if type(written) is not int or written > FORMAT:
            raise StoreError(
                f"store={self.url}: written by a newer ablab (format {written}, this one knows up to {FORMAT}); "
                "update ablab, or name another store"
            )
        return written == FORMAT

    def _mark(self) -> None:
        if not self._marked:
            self.place.mark("store.json", json.dumps({"format": FORMAT}).encode())
            self._marked = True

    def _located(self, fingerprint: str) -> dict[str, Any]:
        """A stage's record, with where its files lie. Nothing in it is trusted."""
        file = self.place.shown(f"{files.stage_place(fingerprint)}/stage.json")
        try:
            record = json.loads(self.place.read(f"{files.stage_place(fingerprint)}/stage.json"))
        except (OSError, ValueError) as error:
            raise DamagedError(fingerprint, f"{file}: the record is damaged ({error})") from None
        if not isinstance(record, dict) or record.get("fingerprint") != fingerprint:
            raise DamagedError(fingerprint, f"{file}: the record is of another stage")
        named = record.get("files")
        if not isinstance(named, dict) or not all(map(files.is_plain, [*named, record.get("at", "here")])):
            raise DamagedError(fingerprint, f"{file}: the record is damaged (it names files by a path)")
        return record
