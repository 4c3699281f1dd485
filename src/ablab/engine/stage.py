"""Run one stage and publish it: what every executor does, wherever it does it."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.errors import UserError
from ablab.stages.declare import KINDS
from ablab.store import Store
from ablab.study.plan import Stage, content_digest

Emit = Callable[[dict[str, Any]], None]

_STOPS_EVERYTHING = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "it is on a read-only file system",
    errno.EACCES: "writing there is not permitted",
    errno.EPERM: "writing there is not permitted",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EEXIST: "a file is where a folder should be",
    errno.EIO: "the disk fails",
}


class StoreUnusableError(UserError):
    """No stage can be published: the sweep stops, and what is published stays."""


def perform(stage: Stage, store: Store, emit: Emit) -> dict[str, Any]:
    """The record of a stage, from the store if it is there, else by running it.

    Raises what the stage raises, and StoreUnusableError when the store cannot be written.
    """
    if store.has(stage.fingerprint):
        return store.read(stage.fingerprint)
    try:
        with store.claim(stage.fingerprint, lambda: emit({"message": "another process is at it: waiting"})) as work:
            if store.has(stage.fingerprint):  # another process published it while this one waited
                return store.read(stage.fingerprint)
            return _run(stage, store, work, emit)
    except OSError as error:
        elsewhere = error.filename is not None and not Path(error.filename).is_relative_to(store.root)
        if elsewhere or error.errno not in _STOPS_EVERYTHING:
            raise
        why = _STOPS_EVERYTHING[error.errno]
        raise StoreUnusableError(
            f"the store {store.root} cannot be written: {why} ({error.filename or error}). "
            "What was finished is kept; mend it and give the same command again"
        ) from None


def _run(stage: Stage, store: Store, work: Path, emit: Emit) -> dict[str, Any]:
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    inputs = {role: _folder(parent, store) for role, parent in stage.inputs.items()}
    run = importlib.import_module(KINDS[stage.kind].module).run
    started = time.time()
    numbers = run(stage.config, inputs, out, work, emit)
    _require_unchanged(stage, store)
    record = {
        "fingerprint": stage.fingerprint,
        "kind": stage.kind,
        "label": stage.label,
        "config": stage.config,
        "inputs": stage.inputs,
        "numbers": numbers,
        "versions": stage.versions,
        "code": stage.code,
        "data": stage.data,
        "host": machine.host(),
        "started": started,
        "seconds": time.time() - started,
    }
    return store.publish(stage.fingerprint, record, out)


def _folder(parent: str, store: Store) -> Path:
    """A parent's published folder; a parent that is a path is the user's own file."""
    return Path(parent) if os.sep in parent else store.checked(parent)


def _require_unchanged(stage: Stage, store: Store) -> None:
    """Raises UserError if the data is no longer what the plan fingerprinted: the result belongs to neither."""
    if stage.data is None:
        return
    from ablab.data.identity import describe

    group = stage.config["data"]
    now = describe(group, store.data_cache)
    if not set(stage.splits) <= now["splits"].keys() or content_digest(now, stage.splits) != stage.data:
        raise UserError(
            f"the data changed while the sweep ran ({', '.join(stage.splits)} of "
            f"{group.get('root') or group.get('name')}): the same command plans anew"
        )
