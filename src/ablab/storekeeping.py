"""The verb `store`: what lies in the store, whether it is whole, what nobody needs, and a study's way elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab.config import compose, parse
from ablab.console import table
from ablab.errors import UserError, nearest
from ablab.store import Store, keep

WORDS = ("ls", "verify", "gc", "export", "import")
Recorded = Callable[[dict[str, Any]], set[str]]


def store_verb(words: list[str], recorded: Recorded = lambda config: set()) -> int:
    """Keep house in the store: `ablab store ls | verify | gc [delete=true] | export study=NAME file=F | import file=F`.

    recorded: the fingerprints that current MLflow runs name, by the configuration. Returns the exit code.
    """
    word, *rest = words or [""]
    if word not in WORDS:
        raise UserError(f"{f'ablab store {word}'.strip()}: expected one of its words. {nearest(word, WORDS)}")
    own_keys: dict[str, dict[str, Any]] = {
        "gc": {"delete": False},
        "export": {"study": None, "file": None},
        "import": {"file": None},
    }
    takes = own_keys.get(word, {})
    asked = parse(rest)
    own = takes | {o.key: o.value for o in asked if o.key in takes}
    config = compose([override for override in asked if override.key not in takes]).resolved
    for key in ("study", "file"):
        if key in own and not own[key]:
            raise UserError(f"ablab store {word}: name {key}=...")
    store = Store(config["store"])
    if word == "ls":
        return _ls(store)
    if word == "verify":
        return _verify(store)
    if word == "gc":
        if type(own["delete"]) is not bool:
            raise UserError(f"delete={own['delete']}: expected true or false")
        return _gc(store, recorded(config), own["delete"])
    file = Path(str(own["file"]))
    if word == "export":
        written, missing = keep.export(store, str(own["study"]), file)
        not_yet = f"; {missing} have not run yet" if missing else ""
        print(f"{written} stages written to {file}, {_size(file.stat().st_size)}{not_yet}")
    else:
        came, stayed = keep.import_(store, file)
        print(f"{came} stages came into {store.url}, {stayed} were there already and stay")
    return 0


def _ls(store: Store) -> int:
    rows = keep.rows(store)
    print(_stages(rows))
    running = store.holders()
    for row in running:
        state = "its process is gone" if row["gone"] else "in work"
        print(f"{row['fingerprint'][:12]}: {state}, process {row['pid']} on {row['host']} since {_when(row['since'])}")
    print(f"\n{_by_kind(rows)} in {store.url}")
    return 0


def _verify(store: Store) -> int:
    damaged = keep.verify(store)
    for what, aside in damaged:
        print(f"{what}; {f'moved to {aside}' if aside else 'somebody else moved it aside'}")
    whole = len(store.published())
    print(f"{whole} stages are as they were published, {len(damaged)} were not")
    if damaged:
        print("The next sweep that needs them runs them again.")
    return 1 if damaged else 0


def _gc(store: Store, recorded: set[str], delete: bool) -> int:
    found = keep.garbage(store, recorded)
    for study, size in found.kept.items():
        print(f"kept: study {study}, {_size(size)}")
    if recorded:
        print(f"kept: what MLflow's current runs name, {len(recorded)} stages")
    if found.stages:
        print(_stages(found.stages))
    for name, (what, size) in found.leftovers.items():
        print(f"{what}: {name}, {_size(size)}")
    for folder, size in keep.caches().items():
        print(f"cache of this machine, not touched here: {folder}, {_size(size)}")
    total = sum(row["bytes"] for row in found.stages) + sum(size for _, size in found.leftovers.values())
    what = f"{_by_kind(found.stages)} and {len(found.leftovers)} leftovers, {_size(total)} in all,"
    if not found.stages and not found.leftovers:
        print("nothing to delete")
    elif not delete:
        print(f"\n{what} would go. Delete them with delete=true")
    elif found.stages and not found.kept and not recorded:
        raise UserError(
            f"store={store.url}: no study is known here, so that every stage would go. Sweep a study of yours again "
            "(nothing runs twice) and its stages are kept; or delete the folder yourself"
        )
    else:
        keep.remove(store, found)
        print(f"\n{what} are gone")
    return 0


def _stages(rows: list[dict[str, Any]]) -> str:
    told = [
        [row["fingerprint"][:12], row["kind"], row["label"], _size(row["bytes"]), _when(row["started"]), row["host"]]
        for row in rows
    ]
    return table(["stage", "kind", "what", "size", "when", "host"], told)


def _by_kind(rows: list[dict[str, Any]]) -> str:
    counts = Counter(row["kind"] for row in rows)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"{len(rows)} stages{f' ({kinds})' if kinds else ''}, {_size(sum(row['bytes'] for row in rows))},"


def _size(count: int) -> str:
    """Bytes for people; 1 MB is 10^6."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _when(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""
