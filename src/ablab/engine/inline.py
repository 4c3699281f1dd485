"""A pool that runs one stage after another in this process: for one configuration, and to debug."""

from __future__ import annotations

import time
from typing import Any

from ablab.engine.execute import Deliver
from ablab.engine.stage import report
from ablab.store import Store
from ablab.study.plan import Stage


class Inline:
    """See ablab.engine.execute.Pool."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next: tuple[Stage, Any] | None = None

    def room(self, stage: Stage, alone: bool) -> bool:
        return self._next is None

    def start(self, stage: Stage, expired: Any) -> None:
        self._next = (stage, expired)

    def wait(self, deliver: Deliver, seconds: float) -> None:
        if self._next is None:
            time.sleep(seconds)
            return
        (stage, expired), self._next = self._next, None
        what, facts = report(stage, self._store, lambda facts: deliver(stage.fingerprint, "progress", facts), expired)
        deliver(stage.fingerprint, what, facts)

    def close(self) -> None:
        self._next = None
