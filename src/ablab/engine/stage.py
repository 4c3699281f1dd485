"""Run one stage and publish it: what every executor does, wherever it does it."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab import machine
from ablab.errors import OutOfMemoryError, UserError
from ablab.stages.declare import KINDS
from ablab.store import BusyError, DamagedError, Hold, LostLeaseError, Store, StoreError
from ablab.study import fingerprint
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


class StoppedError(Exception):
    """The stage was asked to stop and did so behind its last checkpoint."""


def report(stage: Stage, store: Store, emit: Emit, expired: Any = None) -> tuple[str, dict[str, Any]]:
    """What became of a stage: ("done", its record), or a problem and the facts of it.

    mistake (the user's), crashed ("traceback"), memory (it ran out of it), busy (another process is at it: "beat"),
    fenced (another process took it over), damaged ("fingerprint" of the parent that is not as it was published),
    unusable (the store), stopped (it was asked to): each with a "reason".
    """
    try:
        return "done", perform(stage, store, emit, expired)
    except BusyError as error:
        return "busy", {"reason": str(error), "beat": error.beat}
    except LostLeaseError as error:
        return "fenced", {"reason": str(error)}
    except StoppedError:
        return "stopped", {"reason": "asked to stop"}
    except (StoreUnusableError, StoreError) as error:
        return "unusable", {"reason": str(error)}
    except DamagedError as error:
        return "damaged", {"reason": str(error), "fingerprint": error.fingerprint}
    except (OutOfMemoryError, MemoryError) as error:
        return "memory", {"reason": str(error)}
    except UserError as error:
        return "mistake", {"reason": str(error)}
    except Exception as error:
        return "crashed", {"reason": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def perform(stage: Stage, store: Store, emit: Emit, expired: Any = None) -> dict[str, Any]:
    """The record of a stage, from the store if it is there, else by running it.

    expired: the lease of another holder that was seen to be dead (ablab.store.BusyError.beat).
    Raises what the stage raises; BusyError while another process is at it, LostLeaseError if another one took it
    over, DamagedError for a parent that is not as it was published, StoppedError, and StoreUnusableError when the
    store cannot be written.
    """
    if store.has(stage.fingerprint):
        return store.read(stage.fingerprint)
    try:
        with store.claim(stage.fingerprint, expired) as hold:
            if store.has(stage.fingerprint):  # it was published between the two lines above
                return store.read(stage.fingerprint)
            return _run(stage, store, hold, emit)
    except OSError as error:
        raise unusable(store, error) or error from None


def unusable(store: Store, error: OSError) -> StoreUnusableError | None:
    """What an error of the store's own disk means for all of a sweep; None for any other."""
    elsewhere = error.filename is not None and not Path(error.filename).is_relative_to(store.local)
    if elsewhere or error.errno not in _STOPS_EVERYTHING:
        return None
    return StoreUnusableError(
        f"the store {store.url} cannot be written: {_STOPS_EVERYTHING[error.errno]} ({error.filename or error}). "
        "What was finished is kept; mend it and give the same command again"
    )


def _run(stage: Stage, store: Store, hold: Hold, emit: Emit) -> dict[str, Any]:
    _require_same_code(stage)
    out = hold.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    inputs = {role: _folder(parent, store) for role, parent in stage.inputs.items()}
    run = importlib.import_module(KINDS[stage.kind].module).run
    started = time.time()
    peak = machine.PeakMemory()
    tell = _Teller(hold, emit)
    try:
        numbers = run(stage.config, inputs, out, hold.work, tell)
    except Exception:
        hold.check()  # what a successor made of this one's files is no failure of the stage
        raise
    _require_same_data(stage, store)
    record = {
        "fingerprint": stage.fingerprint,
        "kind": stage.kind,
        "label": stage.label,
        "config": stage.config,
        "inputs": stage.inputs,
        "numbers": numbers,
        "versions": stage.versions,
        "code": stage.code,
        "modules": stage.modules,
        "data": stage.data,
        "host": machine.host(),
        "started": started,
        "seconds": time.time() - started,
        "peak_mb": peak.mb,
        "timeline": tell.timeline,
    }
    return store.publish(hold, record, out)


class _Teller:
    """Passes a stage's events on, with the time at which each epoch ended; a crash does not lose those times.

    An event of an epoch that ended has "epoch" and "epochs"; one from within an epoch has "step" as well; an empty one
    only asks whether to stop.
    """

    def __init__(self, hold: Hold, emit: Emit) -> None:
        self._hold, self._emit = hold, emit
        self._file = hold.work / "timeline.json"
        try:
            self.timeline: list[list[float]] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            self.timeline = []

    def __call__(self, event: dict[str, Any]) -> None:
        within = "step" in event
        if "epochs" in event and not within:
            self._hold.check()
            event = event | {"at": time.time()}
            self.timeline = [point for point in self.timeline if point[0] < event["epoch"]]
            self.timeline.append([event["epoch"], event["at"]])
            self._file.write_text(json.dumps(self.timeline))
            self._hold.keep()
        if event:
            self._emit(event)
        if not within and self._hold.stopping():
            raise StoppedError


def _folder(parent: str, store: Store) -> Path:
    """A parent's published folder; a parent that is a path is the user's own file."""
    return Path(parent) if os.sep in parent else store.checked(parent)


def _require_same_code(stage: Stage) -> None:
    """Raises UserError unless this process would run the code, with the libraries, that the plan fingerprinted.

    On a cluster a node may have others; on one machine, a file may have been edited since.
    """
    where = machine.host()["machine"]
    declared = KINDS[stage.kind].libraries
    versions = fingerprint.versions(declared)
    versions |= fingerprint.libraries_of(fingerprint.targets(stage.config), declared)
    if other := [
        f"{name} {found}, not {stage.versions.get(name, 'absent')}"
        for name, found in versions.items()
        if found != stage.versions.get(name)
    ]:
        raise UserError(f"{where}: other libraries than the plan counts: {', '.join(other)}")
    modules = fingerprint.modules_of([KINDS[stage.kind].module, *fingerprint.targets(stage.config)])
    if changed := [name for name, found in modules.items() if stage.modules.get(name) != found]:
        raise UserError(
            f"{where}: other code than the plan counts ({', '.join(changed[:3])}): it was edited while the sweep ran, "
            "or this node has another version of it. The same command plans anew"
        )


def _require_same_data(stage: Stage, store: Store) -> None:
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
