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
from ablab.store import BusyError, Hold, Store, StoreError
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
        with _claim(stage, store, emit) as hold:
            if store.has(stage.fingerprint):  # another process published it while this one waited
                return store.read(stage.fingerprint)
            return _run(stage, store, hold, emit)
    except StoreError as error:
        raise StoreUnusableError(str(error)) from error
    except OSError as error:
        elsewhere = error.filename is not None and not Path(error.filename).is_relative_to(store.local)
        if elsewhere or error.errno not in _STOPS_EVERYTHING:
            raise
        why = _STOPS_EVERYTHING[error.errno]
        raise StoreUnusableError(
            f"the store {store.url} cannot be written: {why} ({error.filename or error}). "
            "What was finished is kept; mend it and give the same command again"
        ) from None


def _claim(stage: Stage, store: Store, emit: Emit) -> Hold:
    """The stage, as soon as nobody else holds it."""
    seen, since = None, time.monotonic()
    while True:
        try:
            return store.claim(stage.fingerprint, seen if time.monotonic() - since > store.ttl else None)
        except BusyError as busy:
            if seen is None:
                emit({"message": f"process {busy.pid} on {busy.host} is at it: waiting"})
            if busy.beat != seen:
                seen, since = busy.beat, time.monotonic()
        time.sleep(0.2)


def _run(stage: Stage, store: Store, hold: Hold, emit: Emit) -> dict[str, Any]:
    out = hold.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    inputs = {role: _folder(parent, store) for role, parent in stage.inputs.items()}
    run = importlib.import_module(KINDS[stage.kind].module).run
    started = time.time()
    numbers = run(stage.config, inputs, out, hold.work, emit)
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
    return store.publish(hold, record, out)


def _folder(parent: str, store: Store) -> Path:
    """A parent's published folder; a parent that is a path is the user's own file."""
    return Path(parent) if os.sep in parent else store.checked(parent)


def _require_unchanged(stage: Stage, store: Store) -> None:
    """Raises UserError if the data is no longer what the plan fingerprinted: the result belongs to neither."""
    if stage.data is None:
        return
    from ablab.data.identity import describe

    now = describe(stage.config["data"], store.data_cache)
    if not set(stage.splits) <= now["splits"].keys() or content_digest(now, stage.splits) != stage.data:
        raise UserError(
            f"the data changed while the sweep ran ({', '.join(stage.splits)} of data.root="
            f"{stage.config['data'].get('root')}): the same command plans anew"
        )
