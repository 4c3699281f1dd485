"""Published rows beside what is measured here: reports/experiments/table.md and table.csv.

Measured numbers come from the study `experiments` in MLflow, by its factor `experiment`. Nobody tells what a printed
table gets wrong: `ablab.report.published` finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from ablab import tracking
from ablab.report.published.column import Row
from ablab.report.published.conventions import Network
from ablab.report.published.findings import find
from ablab.report.published.pages import KEYS, to_csv, to_markdown
from ablab.report.published.readings import Cell
from ablab.report.published.wording import Wording

STUDY, CLASSES = "experiments", 80  # COCO's classes: a prediction layer is as wide as their number


def render_experiments(uri: str, files: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write table.md and table.csv of published rows into `folder`; returns the path of table.md.

    Raises UserError where the study `experiments` is not recorded.
    """
    _, children = tracking.read(uri, STUDY)
    rows = list(files)
    return write(rows, *measured(rows, children), folder)


def write(
    files: Sequence[Mapping[str, Any]], networks: Mapping[str, Network], origins: Mapping[str, str], folder: Path
) -> Path:
    """The same from measured networks by recipe, and the fingerprints of their profile stages by row id."""
    rows = [as_row(file) for file in files]
    cells, findings = find(rows, networks)
    wording = Wording(rows, networks, cells)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.md": to_markdown(files, networks, findings, wording),
        "table.csv": to_csv(files, networks, wording, origins),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder / "table.md"


def as_row(file: Mapping[str, Any]) -> Row:
    """A file of `experiments/` as a row to be explained."""
    published = file["published"]
    cells = {
        column: Cell(Decimal(repr(published[key])), published["size_dtype"] if column == "size" else None)
        for column, key in KEYS.items()
        if published[key] is not None
    }
    return Row(file["id"], file["name"], file["recipe"], file["family"], file["source"], file["imgsz"], cells)


def measured(
    files: Iterable[Mapping[str, Any]], children: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, Network], dict[str, str]]:
    """What the study's runs say: networks by recipe, and the fingerprints of their profile stages by row id."""
    known = {file["id"]: file for file in files}
    networks: dict[str, Network] = {}
    origins: dict[str, str] = {}
    for child in children:
        file = known.get(child["params"].get("experiment", ""))
        if file is None or child["params"].get("model.classes") != str(CLASSES):
            continue
        size, recipe, metrics = file["imgsz"], file["recipe"], child["metrics"]
        counts = (child["elements"] or {}).get(str(size))
        if counts is None or child["params"].get("model") != recipe:
            continue
        elements = {form: {int(side): n for side, n in sides.items()} for form, sides in counts.items()}
        stride = min(elements["trained"])
        if recipe in networks:  # the same network at another size
            elements = {form: {**networks[recipe].elements[form], **sides} for form, sides in elements.items()}
        learnable, folded, stored = (int(metrics[f"params{form}/{size}"]) for form in ("", "_fused", "_stored"))
        networks[recipe] = Network(learnable, folded, stored, elements, stride, file["never_run_params"])
        origins[file["id"]] = next(
            (s["fingerprint"] for s in child["fingerprints"] if s["kind"] == "profile" and s["imgsz"] == size), ""
        )
    return networks, origins
