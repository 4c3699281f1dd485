"""What keeping house in a store needs: list it, verify it, find what nobody needs, carry a study elsewhere."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablab.errors import UserError, nearest
from ablab.store import files
from ablab.store.errors import BusyError, DamagedError
from ablab.store.store import Store

_MEMBER = re.compile(r"store\.json|studies/[^/]+\.json|stages/([0-9a-z]{2})/(\1[0-9a-z]{62})/[^/]+")


@dataclass
class Garbage:
    """What nobody needs. stages: rows as `rows` gives them. leftovers: name in the store -> (what it is, bytes).

    kept: study -> bytes of the stages that it needs, some of which other studies may need too.
    """

    stages: list[dict[str, Any]] = field(default_factory=list)
    leftovers: dict[str, tuple[str, int]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)


def rows(store: Store) -> list[dict[str, Any]]:
    """Every published stage: {"fingerprint", "kind", "label", "bytes", "started" (Unix seconds), "host", "inputs"}."""
    sizes = _stage_sizes(store)
    found = []
    for fingerprint in store.published():
        try:
            record = store.read(fingerprint)
        except DamagedError:
            record = {"kind": "damaged"}
        host = record.get("host")
        found.append(
            {
                "fingerprint": fingerprint,
                "kind": str(record.get("kind", "")),
                "label": str(record.get("label", "")),
                "bytes": sizes.get(fingerprint, 0),
                "started": float(record.get("started") or 0),
                "host": str(host.get("machine", "") if isinstance(host, dict) else host or ""),
                "inputs": record.get("inputs") or {},
            }
        )
    return sorted(found, key=lambda row: (row["kind"], row["started"], row["fingerprint"]))


def verify(store: Store) -> list[tuple[str, str | None]]:
    """Compare every file with its checksum and set damaged stages aside: (what was found, where the stage lies now)."""
    found = []
    for fingerprint in sorted(store.published()):
        try:
            store.verify(fingerprint)
        except DamagedError as error:
            found.append((str(error).partition(";")[0], store.quarantine(fingerprint)))
    return found


def studies(store: Store) -> dict[str, set[str]]:
    """The stages that each study in the store names."""
    found = {}
    for name in store.documents("studies"):
        document = store.read_json(name) or {}
        named = [document.get(key) for key in ("places", "before")]  # what it asks for, and what that replaces
        every = [f for places in named if isinstance(places, dict) for f in places.values()]
        found[Path(name).stem] = {f for f in every if files.is_plain(f)}
    return found


def garbage(store: Store, needed_by_record: Iterable[str]) -> Garbage:
    """What neither a study in the store nor the record names, nor any of those stages' ancestors is.

    Unfinished work is garbage unless somebody holds it, or a study needs the stage and could go on from there.
    """
    every = rows(store)
    known = {row["fingerprint"]: row for row in every}
    found = Garbage()
    needed = _with_ancestors(needed_by_record, known)
    for study, named in studies(store).items():
        whole = _with_ancestors(named, known)
        found.kept[study] = sum(known[f]["bytes"] for f in whole if f in known)
        needed |= whole
    held = {row["fingerprint"] for row in store.holders() if not row["gone"]}
    found.stages = [row for row in every if row["fingerprint"] not in needed | held]

    for name, size in store.place.sizes("work").items():
        fingerprint = name.split("/")[1]
        if fingerprint not in held and (fingerprint not in needed or fingerprint in known):
            _add(found.leftovers, f"work/{fingerprint}", "unfinished work", size)
    for name, size in store.place.sizes("quarantine").items():
        _add(found.leftovers, "/".join(name.split("/")[:2]), "quarantined stage", size)
    for name, size in store.place.sizes("stages").items():
        parts = name.split("/")
        if len(parts) > 3 and (parts[2].startswith(".") or parts[2] not in known) and parts[2] not in held:
            _add(found.leftovers, "/".join(parts[:3]), "part of a stage", size)
    return found


def remove(store: Store, found: Garbage) -> None:
    """Delete what nobody needs, save what was claimed since."""
    for row in found.stages:
        store.remove(row["fingerprint"])
    for name in found.leftovers:
        fingerprint = name.rpartition("/")[2]
        if not any(row["fingerprint"] == fingerprint and not row["gone"] for row in store.holders()):
            store.place.remove(name)


def export(store: Store, study: str, file: Path) -> tuple[int, int]:
    """Write a study's stages and their ancestors to a tar file: (stages written, stages that have not run yet).

    Raises UserError for a study that the store does not know, DamagedError before anything is written.
    """
    document = store.read_json(f"studies/{study}.json")
    if document is None:
        raise UserError(f"study={study}: {store.url} knows no such study. {nearest(study, studies(store))}")
    if file.is_dir() or not file.parent.is_dir():
        found = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise UserError(f"file={file}: expected a tar file to write, but {found}")
    named = studies(store)[study]
    wanted = _with_ancestors(named, {row["fingerprint"]: row for row in rows(store)})
    published = sorted(wanted & store.published())
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    made = store.local / f"export.{secrets.token_hex(4)}"
    try:
        made.mkdir(parents=True)
        with files.naming(file), tarfile.open(temporary, "x:") as archive:
            for name, content in (("store.json", store.read_json("store.json")), (f"studies/{study}.json", document)):
                (made / "document").write_text(json.dumps(content or {"format": 1}, indent=1, sort_keys=True))
                archive.add(made / "document", name)
            for fingerprint in published:
                folder, record = store.checked(fingerprint), store.read(fingerprint)
                for each in record["files"]:
                    archive.add(folder / each, f"{files.stage_place(fingerprint)}/{each}")
                (made / "document").write_text(json.dumps(record, indent=1, sort_keys=True))
                archive.add(made / "document", f"{files.stage_place(fingerprint)}/stage.json")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(made, ignore_errors=True)
    return len(published), len(wanted) - len(published)


def import_(store: Store, file: Path) -> tuple[int, int]:
    """Publish the stages of a tar file that `export` wrote: (stages that came, stages that were there and stay).

    Everything is checked before anything is published. Raises UserError for a file that is none or is damaged.
    """
    made = store.local / f"import.{secrets.token_hex(4)}"
    try:
        _unpack(file, made)
        source = Store(made)
        everything, there = sorted(source.published()), store.published()
        for fingerprint in everything:
            try:
                source.verify(fingerprint)
            except DamagedError as error:
                told = str(error).partition(";")[0].replace(str(made), str(file))
                raise UserError(f"{told}. Nothing was imported: export it again") from None
        new = [fingerprint for fingerprint in everything if fingerprint not in there]
        for fingerprint in new:
            _copy_stage(source, store, fingerprint)
        for name in source.documents("studies"):
            if store.read_json(name) is None:
                store.write_json(name, source.read_json(name) or {})
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return len(new), len(everything) - len(new)


def caches() -> dict[str, int]:
    """Bytes of each cache of this machine, such as decoded images: they may be deleted at any time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ablab"
    found: dict[str, int] = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file():
                name = str(folder / path.relative_to(folder).parts[0])
                found[name] = found.get(name, 0) + path.stat().st_size
    return found


# ---------------------------------------------------------------------------------------------- inside


def _stage_sizes(store: Store) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, size in store.place.sizes("stages").items():
        fingerprint = name.split("/")[2] if name.count("/") > 2 else ""
        found[fingerprint] = found.get(fingerprint, 0) + size
    return found


def _with_ancestors(named: Iterable[str], known: dict[str, dict[str, Any]]) -> set[str]:
    found: set[str] = set()
    left = list(named)
    while left:
        fingerprint = left.pop()
        if fingerprint not in found:
            found.add(fingerprint)
            left += known.get(fingerprint, {"inputs": {}})["inputs"].values()  # a file of the user's is no stage
    return found


def _add(leftovers: dict[str, tuple[str, int]], name: str, what: str, size: int) -> None:
    leftovers[name] = (what, leftovers.get(name, (what, 0))[1] + size)


def _unpack(file: Path, folder: Path) -> None:
    """Unpack a store of one study; it may come from anybody."""
    try:
        with tarfile.open(file, "r:") as archive:
            members = archive.getmembers()
            for member in members:
                plain = member.isreg() and not member.issparse() and files.is_inside(member.name)
                if not (plain and _MEMBER.fullmatch(member.name)):
                    raise UserError(f"file={file}: '{member.name}' does not belong in an exported study")
            folder.mkdir(parents=True)
            archive.extractall(folder, members, filter="data")
    except FileNotFoundError as error:
        raise UserError(f"file={file}: there is no such file") from error
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"file={file}: no tar file that `ablab store export` wrote ({error})") from None


def _copy_stage(source: Store, store: Store, fingerprint: str) -> None:
    record = source.read(fingerprint)
    try:
        with store.claim(fingerprint) as hold:
            out = hold.work / files.OUT
            out.mkdir(exist_ok=True)
            for name in record["files"]:
                shutil.copyfile(source.folder(fingerprint) / name, out / name)
            store.publish(hold, record, out)
    except BusyError as busy:
        raise UserError(
            f"{fingerprint[:12]}: process {busy.pid} on {busy.host} is running this stage; import again when it is done"
        ) from None
