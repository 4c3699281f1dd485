"""How stages, times and results are called wherever a person reads them; AP is told in percent."""

from __future__ import annotations

import re
from typing import Any

from ablab.engine.events import within_epoch


def clock(seconds: float) -> str:
    """
    >>> clock(35), clock(3675), clock(200_000)
    ('0:35', '1:01:15', '2 d 07 h')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float | None) -> str:
    """AP as tables tell it.

    >>> percent(0.4567), percent(None)
    ('45.7', '–')
    """
    return "–" if share is None else f"{100 * share:.1f}"


def loss(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def speed(images_per_second: float | None) -> str:
    if images_per_second is None:
        return "–"
    return f"{images_per_second:.0f}" if images_per_second >= 10 else f"{images_per_second:.1f}"


def variants(event: dict[str, Any], of: int) -> str:
    """Whose stage it is; of: how many variants the sweep has."""
    count, names = event["n_variants"], event["variants"]
    if count == of > 1:
        return "all variants"
    return f"{names[0]} +{count - 1}" if count > 1 else names[0] if names else ""


def stage(event: dict[str, Any]) -> str:
    """A stage's kind and label, short and without what stands in columns of their own.

    >>> stage({"kind": "train", "label": "phase 1/2, 40 epochs at 640 px, seed 0"})
    'train 1/2 640px'
    >>> stage({"kind": "train", "label": "phase 1/1, 40 epochs at 640 px, seed 0"})
    'train 640px'
    >>> stage({"kind": "evaluate", "label": "320 px, seed 0"})
    'evaluate 320px'
    """
    label = re.sub(r", seed \d+$", "", event["label"])
    label = re.sub(r"^phase (\d+/\d+), \d+ epochs at ", r"\1 ", label).removeprefix("1/1 ")
    return f"{event['kind']} {label.replace(' px', 'px')}"


def title(event: dict[str, Any], of: int) -> str:
    """Whose stage it is and which, for a line of its own."""
    whose = variants(event, of) if of > 1 else ""
    return f"{whose}: {event['label']}" if whose else event["label"]


def result(event: dict[str, Any]) -> str:
    """The main number of a stage that was done; empty where nobody waits for one."""
    numbers = event.get("numbers", {})
    if numbers.get("diverged"):
        return "diverged"
    if numbers.get("map50") is not None:
        return f"mAP50 {percent(numbers['map50'])}"
    return f"loss {loss(numbers['loss'])}" if numbers.get("loss") is not None else ""


def epoch(event: dict[str, Any]) -> str:
    """Where a training stands."""
    words = f"epoch {event['epoch']}/{event['epochs']}"
    if within_epoch(event):
        words += f", step {event['step']}/{event['steps']}"
    words += f": loss {loss(event.get('loss'))}"
    if event.get("map50") is not None:
        words += f", mAP50 {percent(event['map50'])}"
    if event.get("images_per_second") is not None:
        words += f", {speed(event['images_per_second'])} images/s"
    return words


def counts(counts: dict[str, int], running: int, to_go: int) -> str:
    """How many stages are in which state; those with none are left out, but for the done ones."""
    told = [
        f"{counts.get('done', 0)} done",
        *(f"{counts[key]} {word}" for key, word in _STATES.items() if counts.get(key)),
        *([f"{running} running"] if running else []),
        *([f"{to_go} to go"] if to_go else []),
    ]
    return " · ".join(told)


_STATES = {"cached": "in the store", "failed": "failed", "skipped": "skipped", "retry": "tried again"}
