"""Where a sweep stands as a table for a terminal (rich): live while it runs, once for `ablab status`.

Every line is one text of fixed columns: rich's own tables take ten times as long to draw, twice a second, all night.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.text import Text

from ablab.console import words
from ablab.console.state import Running, State

SHOWN_ENDED = 3
ROOMY = 100  # columns from which bars are long and stages are told whole
WIDEST = 120  # columns: with more, the eye loses its row
Cell = tuple[str, str, int]  # text, style, width: below 0 for texts that stand to the right


def render(state: State, now: float, width: int, height: int) -> Group:
    """The whole picture in at most `height` lines of `width` columns; now: unix time (s)."""
    width = min(width, WIDEST)
    ended = [one for one in state.ended if _is_news(one)][-SHOWN_ENDED:] if height >= 12 else []
    room = max(height - len(ended) - 5, 1)  # the head, the columns' names, the bar, the counts, the cursor's line
    rows = list(state.running.values())
    shown = rows if len(rows) <= room else rows[: max(room - 1, 1)]
    lines = [head(state)]
    if rows:
        lines.append(_line([(name, "dim", size) for name, size in _columns(state, width)]))
    pace = state.pace()
    lines += [_row(state, row, now, pace, width) for row in shown]
    if more := rows[len(shown) :]:
        kinds = Counter(row.event["kind"] for row in more).most_common()
        lines.append(Text(f"+ {len(more)} more: {', '.join(f'{count} {kind}' for kind, count in kinds)}", "dim"))
    lines += [_ended(state, one, width) for one in ended]
    return Group(*lines, *foot(state, now, width))


def head(state: State) -> Text:
    """The study and its size."""
    first = state.first
    variants, seeds = first["n_variants"], len(first["seeds"])
    size = f"{variants} variant{'s' * (variants != 1)} × {seeds} seed{'s' * (seeds != 1)}"
    slots = f", {first['slots']} stages at once" if first["slots"] > 1 else ""
    return Text.assemble((first["study"], "bold"), (f"  {size}{slots}", "dim"), no_wrap=True, overflow="ellipsis")


def foot(state: State, now: float, width: int) -> tuple[Text, Text]:
    """The bar of the whole sweep, and the counts."""
    share, left = state.share(now), state.left(now)
    past = words.clock(now - state.first["at"])
    told = f" {int(100 * share):3d} %  " + (f"in {past}" if state.end else f"{past} so far")
    if left is not None and state.end is None:
        told += f", about {words.clock(left)} left"
        if width >= ROOMY:
            told += f", till {when(now + left, now)}"
    bar = _line([*_bar(share, max(width - cell_len(told) - 1, 8), "bold green"), (told, "", cell_len(told))])
    counts = Text(no_wrap=True, overflow="ellipsis")
    for number, part in enumerate(words.counts(state.counts, len(state.running), state.to_go).split(" · ")):
        counts.append(" · " if number else "", "dim")
        counts.append(part, "bold red" if part.endswith("failed") else "")
    return bar, counts


def _columns(state: State, width: int) -> list[tuple[str, int]]:
    """Names and widths of the columns; the variant's takes what the others leave."""
    roomy = width >= ROOMY
    others = [
        *([("seed", -max(4, *(len(str(seed)) for seed in state.first["seeds"])))] if _seeded(state) else []),
        ("stage", 20 if roomy else 16),
        ("epoch", 14 if roomy else 6),
        ("", -7 if roomy else -5),  # 12/40
        ("loss", -5),
        ("mAP50", -5),
        ("img/s", -5),
        ("left", -7),
    ]
    return [("", 1), ("variant", max(width - 2 - sum(abs(size) + 1 for _, size in others), 8)), *others]


def _row(state: State, row: Running, now: float, pace: float, width: int) -> Text:
    """A stage at work."""
    event = row.event
    left = row.left(now, pace)
    stage = f"{event['kind']}: {row.note}" if row.note else words.stage(event)
    texts = ["▸", words.variants(event, state.first["n_variants"]), *_seed(state, event), stage, ""]
    if row.epochs:
        texts += [f"{row.epoch}/{row.epochs}", words.loss(row.loss)]
        texts += [words.percent(row.map50), words.speed(row.images_per_second)]
    else:
        texts += [""] * 4
    texts.append("–" if left is None else words.clock(left))
    cells: list[Cell] = []
    for text, (name, size) in zip(texts, _columns(state, width), strict=True):
        if name == "epoch" and row.epochs:
            cells += _bar(row.share(now, pace), size, "cyan")
        else:
            cells.append((text, _STYLES.get(name, "") if text != "▸" else "cyan", size))
    return _line(cells)


def _ended(state: State, event: dict[str, Any], width: int) -> Text:
    """A stage that was done or failed: whose it was as above, then what it came to."""
    failed = event["event"] == "failed"
    told = "failed" if failed else f"{words.result(event)} in {words.clock(event.get('seconds', 0.0))}"
    mark, style = ("✗", "red") if failed else ("✓", "green")
    texts = [mark, words.variants(event, state.first["n_variants"]), *_seed(state, event), words.stage(event)]
    columns = _columns(state, width)
    cells = [(text, style if name == "" else "dim", size) for text, (name, size) in zip(texts, columns, strict=False)]
    rest = sum(abs(size) + 1 for _, size in columns[len(texts) :]) - 1
    return _line([*cells, (told, style, -rest)])


def _bar(share: float, width: int, style: str) -> list[Cell]:
    """A bar in two cells, without the space between."""
    halves = int(2 * width * min(max(share, 0.0), 1.0))
    full = "━" * (halves // 2) + "╾" * (halves % 2)
    return [(full, f"{style} joined", len(full)), ("─" * (width - len(full)), "bright_black", width - len(full))]


def _line(cells: list[Cell]) -> Text:
    """Cells as one text, each cut or filled to its width, a space between them (none after a bar's first part)."""
    line = Text(no_wrap=True, overflow="crop")
    for text, style, size in cells:
        text = _cut(text, abs(size))
        space = " " * (abs(size) - cell_len(text))
        joined = style.endswith(" joined")
        line.append(text + space if size > 0 else space + text, style.removesuffix(" joined"))
        line.append("" if joined else " ")
    line.right_crop(1)  # the last space, which would not fit
    return line


def _cut(text: str, width: int) -> str:
    """A text that fits, without its middle if need be: names of variants differ in their ends."""
    if cell_len(text) <= width:
        return text
    back = width // 3
    return set_cell_size(text, width - back - 1) + "…" + text[len(text) - back :]


_STYLES = {"loss": "", "mAP50": "bold", "img/s": "dim", "stage": "dim"}


def _seeded(state: State) -> bool:
    return len(state.first["seeds"]) > 1


def _seed(state: State, event: dict[str, Any]) -> list[str]:
    """The text of the seed's column, if there is one."""
    return ["" if event["seed"] is None else str(event["seed"])] if _seeded(state) else []


def _is_news(event: dict[str, Any]) -> bool:
    """Not the checks, of which there are many in the first minute."""
    return event["event"] == "failed" or bool(words.result(event))


def when(at: float, now: float) -> str:
    """A time of the day, with the day where it is not today's."""
    day = "%H:%M" if time.localtime(at)[:3] == time.localtime(now)[:3] else "%a %H:%M"
    return time.strftime(day, time.localtime(at))
