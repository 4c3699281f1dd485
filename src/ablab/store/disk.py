"""A store in a folder that every process sees: renames make things whole, and exclusive.

Raises OSError, with the file's name, for a disk that is full, read-only or failing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablab.store import files

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)  # what a rename onto a folder with something in it says


class Disk:
    """Names are relative to `root`, with slashes."""

    def __init__(self, root: Path) -> None:
        self.root = self.local = root
        self.url = str(root)

    def shown(self, name: str) -> str:
        """A name's whole path, for people."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError if it is not there."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        files.replace(self.root / name, content)

    mark = write

    def exists(self, name: str) -> bool:
        return os.path.exists(self.root / name)

    def children(self, name: str) -> list[str]:
        """Names of what is in a folder; none if it is not there."""
        try:
            return os.listdir(self.root / name)
        except FileNotFoundError:
            return []

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each file below a folder, by its name in the store."""
        found = {}
        for folder, _, names in os.walk(self.root / name):
            for each in names:
                file = Path(folder, each)
                with suppress(FileNotFoundError):
                    found[str(file.relative_to(self.root))] = file.lstat().st_size
        return found

    def remove(self, name: str) -> None:
        """Remove a file or a folder; nobody ever sees half a folder under its name."""
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with suppress(FileNotFoundError):
                path.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------ stages

    def published(self) -> set[str]:
        found = set()
        for prefix in self.children("stages"):
            with suppress(NotADirectoryError):
                folder = str(self.root / "stages" / prefix)
                for fingerprint in self.children(f"stages/{prefix}"):
                    if not fingerprint.startswith(".") and os.path.exists(f"{folder}/{fingerprint}/stage.json"):
                        found.add(fingerprint)
        return found

    def digest(self, fingerprint: str, record: dict[str, Any], name: str) -> str | None:
        """SHA-256 of one of a stage's files; None if it is missing."""
        file = self.root / files.stage_place(fingerprint) / name
        return files.checksum(file) if file.is_file() and not file.is_symlink() else None

    def fetch(self, fingerprint: str, record: dict[str, Any]) -> Path:
        """The folder of a stage's files."""
        return self.root / files.stage_place(fingerprint)

    def publish(
        self, fingerprint: str, token: int, record: dict[str, Any], written: Path, fence: Callable[[], None]
    ) -> bool:
        """Publish the folder `written`; False if the stage is there already. `fence` is called at the last moment."""
        file = written / "stage.json"
        with files.naming(file):
            file.write_text(json.dumps(record, indent=1, sort_keys=True, allow_nan=False))
        target = self.root / files.stage_place(fingerprint)
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in (*written.iterdir(), written):  # a rename that outlives a power cut must find its files whole
            files.to_disk(path)
        fence()
        try:
            written.rename(target)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        files.to_disk(target.parent)
        return True

    def quarantine(self, fingerprint: str) -> str | None:
        """Move a stage aside; where to, or None if somebody else did."""
        aside = self.root / "quarantine" / f"{fingerprint}.{secrets.token_hex(4)}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            (self.root / files.stage_place(fingerprint)).rename(aside)
        except FileNotFoundError:
            return None
        return str(aside)

    # ------------------------------------------------------------------------------------------ attempts

    def guarded(self, fingerprint: str) -> bool:
        """Whether something holds a lock on the stage's guard file, `work/<fingerprint>/.guard`."""
        try:
            with (self.root / "work" / fingerprint / files.GUARD).open("r+b") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def take(self, fingerprint: str, token: int, lease: dict[str, Any]) -> Path | None:
        """Begin attempt number `token`: its work folder, with the work files of the last one; None if it is taken.

        The folder is made aside and renamed, so that lease and work files are there at once or not at all. Files are
        copied: the predecessor may be an orphan that writes into its own in place.
        """
        home = self.root / "work" / fingerprint
        made = home / f".{lease['nonce']}"
        target = self.root / files.token_place(fingerprint, token)
        try:
            made.mkdir(parents=True)
            with files.naming(made):
                (made / files.LEASE).write_text(json.dumps(lease))
                (made / files.beat_name(lease["nonce"])).write_text(f"{0:020d}")
            earlier = sorted(int(name) for name in self.children(f"work/{fingerprint}") if name.isdigit())
            if earlier:
                self._copy_work(self.root / files.token_place(fingerprint, earlier[-1]), made)
            made.rename(target)
        except FileNotFoundError:  # its holder published, and took the folder away in this moment
            return None
        except OSError as error:
            if error.errno in _TAKEN and error.filename == str(made):
                return None
            raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
        for other in earlier:
            if other < token:
                self.remove(files.token_place(fingerprint, other))
        return target

    def _copy_work(self, source: Path, target: Path) -> None:
        for name in files.work_files(source):
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            with files.naming(copy):
                shutil.copy2(source / name, copy)
            files.to_disk(copy)  # the predecessor's goes

    def keep(self, fingerprint: str, token: int, work: Path) -> None:
        """Nothing to carry: the work files are in the store."""

    def beat(self, fingerprint: str, token: int, nonce: str, count: int) -> None:
        """Raises FileNotFoundError if the attempt is gone."""
        # In place: that needs no room on a full disk.
        with open(self.root / files.token_place(fingerprint, token) / files.beat_name(nonce), "r+b") as file:
            file.write(f"{count:020d}".encode())

    def release(self, fingerprint: str, token: int, work: Path) -> None:
        """Leave the work files to whoever comes next."""
        folder = self.root / files.token_place(fingerprint, token)
        (folder / files.LEASE).rename(folder / files.RELEASED)  # needs no room on a full disk either

    def leave(self, work: Path) -> None:
        """Nothing of the attempt lies outside the store."""
