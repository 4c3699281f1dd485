"""A store in object storage: conditional writes make things exclusive, and the last object written makes them whole.

Files live on this machine while they are worked on or read: in `local`, a cache that may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.registry import known_implementations

from ablab.errors import nearest
from ablab.store import files
from ablab.store.errors import DamagedError, LostLeaseError, StoreError

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # its cache's disk, not the storage
_NO_STORE = ("http", "https", "memory")  # takes nothing, or is seen by one process alone
_CONFLICT = "ConditionalRequestConflict"  # S3: another conditional write is under way


class Bucket:
    """Names are relative to the URL, with slashes."""

    def __init__(self, address: str, shown: str, local: Path) -> None:
        self.url, self.local = shown, local
        protocol = address.partition("://")[0]
        if protocol not in known_implementations or protocol in _NO_STORE:
            raise StoreError(f"store={shown}: unknown protocol '{protocol}'. {nearest(protocol, _PACKAGES)}")
        try:
            # Listings must be true now: other machines write too.
            with self._asked():
                self._files, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            raise StoreError(
                f"store={shown}: {package or 'a library'} is needed for {protocol}:// and is not installed ({error}). "
                f"Install it: pip install {package or protocol}"
            ) from None
        self._root = root.rstrip("/")
        if not _has_own_writing(self._files):
            raise self._unsafe()
        self._kept: dict[Path, dict[str, Any]] = {}  # work folder -> its files as they lie in the store

    def shown(self, name: str) -> str:
        """A name's whole URL, for people."""
        return f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError if it is not there."""
        with self._asked():
            return bytes(self._files.cat_file(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        with self._asked():
            self._files.pipe_file(self._path(name), content)

    def mark(self, name: str, content: bytes) -> None:
        """Write the first object, and find out whether this storage refuses to write it a second time."""
        if self._create(name, content) and self._create(name, content + b"\n"):
            self.remove(name)
            raise self._unsafe()

    def exists(self, name: str) -> bool:
        with self._asked():
            return bool(self._files.exists(self._path(name)))

    def children(self, name: str) -> list[str]:
        """Names of what is in a folder; none if it is not there."""
        try:
            with self._asked():
                found = self._files.ls(self._path(name), detail=False)
        except FileNotFoundError:
            return []
        own = self._path(name)
        return [path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != own]

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each file below a folder, by its name in the store."""
        try:
            with self._asked():
                found = self._files.find(self._path(name), detail=True)
        except FileNotFoundError:
            return {}
        return {path[len(self._root) + 1 :]: int(info["size"] or 0) for path, info in found.items()}

    def remove(self, name: str) -> None:
        """Remove an object or a folder; a stage's record goes first, so that nobody sees half a stage."""
        for path in (f"{name}/stage.json", name):
            with suppress(FileNotFoundError), self._asked():
                self._files.rm(self._path(path), recursive=True)

    # ------------------------------------------------------------------------------------------ stages

    def published(self) -> set[str]:
        return {
            name.split("/")[2] for name in self.sizes("stages") if name.count("/") == 3 and name.endswith("/stage.json")
        }

    def digest(self, fingerprint: str, record: dict[str, Any], name: str) -> str | None:
        """SHA-256 of one of a stage's files, read from the storage itself; None if it is missing."""
        try:
            with self._asked(), self._files.open(self._path(self._object(fingerprint, record, name)), "rb") as opened:
                whole = hashlib.sha256()
                while block := opened.read(1 << 22):
                    whole.update(block)
                return whole.hexdigest()
        except FileNotFoundError:
            return None

    def fetch(self, fingerprint: str, record: dict[str, Any]) -> Path:
        """A local folder with a stage's files, fetched if it is not there as published. Raises DamagedError."""
        folder = self.local / files.stage_place(fingerprint)
        wanted = record["files"]
        if folder.is_dir() and all(
            (folder / n).is_file() and files.checksum(folder / n) == c for n, c in wanted.items()
        ):
            return folder
        made = folder.with_name(f".{fingerprint}.{secrets.token_hex(4)}")
        made.mkdir(parents=True)
        try:
            for name, expected in wanted.items():
                there = self._object(fingerprint, record, name)
                try:
                    with self._asked():
                        self._files.get_file(self._path(there), str(made / name))
                except FileNotFoundError:
                    raise DamagedError(fingerprint, f"{self.shown(there)}: missing") from None
                if files.checksum(made / name) != expected:
                    raise DamagedError(fingerprint, f"{self.shown(there)}: not as it was published")
            while True:
                try:
                    made.rename(folder)
                    return folder
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                # An older one, or another process was quicker; who reads it meanwhile has it open.
                with suppress(FileNotFoundError):
                    aside = made.with_name(f"{made.name}.old")
                    folder.rename(aside)
                    shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def publish(
        self, fingerprint: str, token: int, record: dict[str, Any], written: Path, fence: Callable[[], None]
    ) -> bool:
        """Publish the files of `written`; False if the stage is there already. `fence` is called at the last moment."""
        place = files.stage_place(fingerprint)
        located = record | {"at": f"{token:06d}-{secrets.token_hex(8)}"}
        content = json.dumps(located, indent=1, sort_keys=True, allow_nan=False).encode()
        ours = False
        try:
            for name in record["files"]:
                self._put(written / name, self._object(fingerprint, located, name))
            fence()
            ours = self._create(f"{place}/stage.json", content)
        finally:
            if not ours:
                self.remove(f"{place}/{located['at']}")
        for other in self.children(place) if ours else []:  # what attempts that were killed had uploaded
            if other not in ("stage.json", located["at"]):
                self.remove(f"{place}/{other}")
        return ours

    def quarantine(self, fingerprint: str) -> str | None:
        """Move a stage aside; where to, or None if somebody else did."""
        place, aside = files.stage_place(fingerprint), f"quarantine/{fingerprint}.{secrets.token_hex(4)}"
        moved = self.sizes(place)
        for name in moved:
            with suppress(FileNotFoundError), self._asked():
                self._files.copy(self._path(name), self._path(f"{aside}/{name[len(place) + 1 :]}"))
        self.remove(place)
        return self.shown(aside) if moved else None

    # ------------------------------------------------------------------------------------------ attempts

    def guarded(self, fingerprint: str) -> bool:
        """Work files lie on each machine's own disk: nobody else writes there."""
        return False

    def take(self, fingerprint: str, token: int, lease: dict[str, Any]) -> Path | None:
        """Begin attempt number `token`: its work folder, with the work files that were kept; None if it is taken."""
        place = files.token_place(fingerprint, token)
        if not self._create(f"{place}/{files.LEASE}", json.dumps(lease).encode()):
            return None
        home = self.local / "work" / fingerprint
        work = home / f"{token:06d}.{lease['nonce']}"
        try:
            work.mkdir(parents=True)
            for other in home.iterdir():  # of processes that died or were superseded
                if other.name < f"{token:06d}":
                    shutil.rmtree(other, ignore_errors=True)
            self._kept[work] = {}
            for earlier in range(token - 1, 0, -1):
                with suppress(FileNotFoundError):
                    before = json.loads(self.read(f"{files.token_place(fingerprint, earlier)}/{files.KEPT}"))
                    self._kept[work] = self._fetch_work(fingerprint, before, work)
                    break
        except BaseException:  # this machine's disk is full: whoever comes next need not wait for ttl
            self.write(f"{place}/{files.RELEASED}", b"")
            self.leave(work)
            raise
        return work

    def _fetch_work(self, fingerprint: str, kept: dict[str, Any], work: Path) -> dict[str, Any]:
        fetched = {}
        for name, there in kept.items():
            if not (files.is_inside(name) and files.is_inside(there["at"])):
                continue
            file = work / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._asked():
                self._files.get_file(self._path(f"work/{fingerprint}/{there['at']}"), str(file))
            if files.checksum(file) != there["sha256"]:
                file.unlink()
                continue
            fetched[name] = there | {"stamp": _stamp(file)}
        return fetched

    def keep(self, fingerprint: str, token: int, work: Path) -> None:
        """Upload the work files that changed, whole, and then the list that makes them count."""
        place = files.token_place(fingerprint, token)
        before, now = self._kept[work], dict[str, Any]()
        for name in files.work_files(work):
            file = work / name
            if name in before and before[name]["stamp"] == _stamp(file):
                now[name] = before[name]
                continue
            at = f"{token:06d}/{secrets.token_hex(8)}"
            now[name] = {"at": at, "sha256": files.checksum(file), "stamp": _stamp(file)}
            self._put(file, f"work/{fingerprint}/{at}")
        if now == before:
            return
        if not self.exists(f"{place}/{files.LEASE}"):  # the successor has published and cleared everything
            for name in now.keys() - before.keys():
                self.remove(f"work/{fingerprint}/{now[name]['at']}")
            raise LostLeaseError(f"{fingerprint}: attempt {token} was taken for dead and another one has finished")
        self.write(f"{place}/{files.KEPT}", json.dumps(now).encode())
        self._kept[work] = now
        superseded = {there["at"] for there in before.values()} - {there["at"] for there in now.values()}
        for at in superseded:
            if at.startswith(f"{token:06d}/"):  # an earlier attempt's may be somebody else's to read
                self.remove(f"work/{fingerprint}/{at}")

    def beat(self, fingerprint: str, token: int, nonce: str, count: int) -> None:
        """Raises FileNotFoundError if the attempt is gone."""
        place = files.token_place(fingerprint, token)
        if not self.exists(f"{place}/{files.LEASE}"):
            raise FileNotFoundError(place)
        self.write(f"{place}/{files.beat_name(nonce)}", str(count).encode())

    def release(self, fingerprint: str, token: int, work: Path) -> None:
        """Leave the work files to whoever comes next."""
        self.keep(fingerprint, token, work)
        self.write(f"{files.token_place(fingerprint, token)}/{files.RELEASED}", b"")

    def leave(self, work: Path) -> None:
        """Clear what the attempt leaves on this machine."""
        self._kept.pop(work, None)
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            work.parent.rmdir()

    # ------------------------------------------------------------------------------------------ what they share

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _object(self, fingerprint: str, record: dict[str, Any], name: str) -> str:
        at = f"{record['at']}/" if "at" in record else ""
        return f"{files.stage_place(fingerprint)}/{at}{name}"

    def _put(self, file: Path, name: str) -> None:
        with self._asked():
            self._files.put_file(str(file), self._path(name))

    def _create(self, name: str, content: bytes) -> bool:
        """Write an object that must not be there yet; False if it is."""
        for attempt in range(5):
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
                return True
            except FileExistsError:
                # The answer to the first try may have been lost, and a library that tries again finds its own object.
                return self.read(name) == content
            except Exception as error:
                if _code(error) != _CONFLICT or attempt == 4:
                    with self._asked():
                        raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def _unsafe(self) -> StoreError:
        return StoreError(
            f"store={self.url}: this storage cannot refuse to write an object that is there already, so two sweeps "
            "could spoil each other's work; use a folder or a storage with conditional writes (S3, GCS, Azure)"
        )

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what the storage's library raises into one message."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            told = " ".join(str(error).split()) or type(error).__name__
            code = _code(error)
            if code == "NoSuchBucket":
                raise StoreError(f"store={self.url}: there is no such bucket ({told}); create it first") from error
            if isinstance(error, FileNotFoundError | FileExistsError | ImportError):
                raise
            if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
                raise
            if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
                raise StoreError(
                    f"store={self.url}: no right to use it ({told}); check the credentials and what they permit "
                    "(for S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), "
                    "then give the same command again"
                ) from error
            raise StoreError(
                f"store={self.url}: it cannot be reached ({told}); check the address (for S3: AWS_ENDPOINT_URL) and "
                "the network. What was finished is kept; then give the same command again"
            ) from error


def _has_own_writing(system: fsspec.AbstractFileSystem) -> bool:
    """Whether a file system brings its own writing of whole objects: fsspec's would look first and then write."""
    if system.async_impl:
        return type(system)._pipe_file is not AsyncFileSystem._pipe_file
    return type(system).pipe_file is not fsspec.AbstractFileSystem.pipe_file


def _code(error: BaseException | None) -> str:
    """The storage's own error code, which botocore has in a response somewhere along the chain."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def _stamp(file: Path) -> list[int]:
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns]
