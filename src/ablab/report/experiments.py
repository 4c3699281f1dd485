"""Published rows beside what is measured here, under one stated convention.

A row is a file `experiments/<name>.yaml`; what was printed is kept as printed, errors too, with notes on how it was
counted. Measured numbers come from the study `experiments` in MLflow, by its factor `experiment`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from ablab import tracking
from ablab.config import find_yaml, read_yaml, yaml_names
from ablab.errors import UserError, nearest
from ablab.report.table import markdown, significant

STUDY, CLASSES = "experiments", 80  # COCO's classes: a prediction layer is as wide as their number
NUMBER = (int, float, type(None))
ROW = {
    "id": str,
    "name": str,
    "network": str,
    "recipe": (str, type(None)),
    "imgsz": int,
    "published": dict,
    "notes": list,
    "source": str,
}
PUBLISHED = {
    "flops_g": NUMBER,
    "params_m": NUMBER,
    "size_mb": NUMBER,
    "size_dtype": str,
    "map50": NUMBER,
    "map": NUMBER,
}
DTYPES = ("fp16", "fp32")
QUANTITIES = {"flops_g": "FLOPs (G)", "params_m": "Params (M)", "size_mb": "Size (MB)"}


def load_rows() -> list[dict[str, Any]]:
    """Every row of `experiments/`, by id; keys as in ROW and PUBLISHED.

    Raises UserError that names file and key.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in yaml_names("experiments"):
        row = load_row(find_yaml("experiments", name, "experiment"))
        if row["id"] in rows:
            raise UserError(f"experiments/{name}.yaml: id: '{row['id']}' is the id of another file too")
        rows[row["id"]] = row
    return [rows[number] for number in sorted(rows)]


def load_row(file: Path) -> dict[str, Any]:
    """One published row. Raises UserError that names file and key."""
    where = f"experiments/{file.name}"
    row = read_yaml(file)
    _check(row, ROW, where)
    _check(row["published"], PUBLISHED, f"{where}: published")
    if row["published"]["size_dtype"] not in DTYPES:
        found = row["published"]["size_dtype"]
        raise UserError(f"{where}: published: size_dtype: '{found}' is none. {nearest(found, DTYPES)}")
    return dict(row)


def render_experiments(uri: str, rows: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write table.md and table.csv of the published rows into `folder`; returns the path of table.md.

    Raises UserError where the study `experiments` is not recorded.
    """
    _, children = tracking.read(uri, STUDY)
    rows = list(rows)
    measured = [_measured(row, children) for row in rows]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = ["ID", "Model", "Input size"]
    header += [text for name in QUANTITIES.values() for text in (name, "measured")] + ["mAP50", "mAP"]
    cells = [_cells(row, found) for row, found in zip(rows, measured, strict=True)]
    notes = [f"- {row['id']}: {' '.join(row['notes'])}\n" for row in rows]
    text = "\n".join(
        [
            "# Published and measured\n",
            "What was printed, and what the same network costs when it is measured again. AP as published.\n",
            markdown(header, cells),
            "- Measured: FLOPs = 2 × MACs as thop counts them, for one image, BatchNorm not folded; learnable params; "
            f"size of all stored numbers in MB of 10⁶ bytes, dtype as published; {CLASSES} classes. In brackets by how "
            "much a measured number is off the printed one, where that is more than rounding. –: not measured.\n"
            f"- Source: {'; '.join(dict.fromkeys(row['source'] for row in rows))}.\n",
            "How the printed numbers were counted:\n",
            "".join(notes),
        ]
    )
    (folder / "table.md").write_text(text, encoding="utf-8", newline="\n")
    (folder / "table.csv").write_text(_csv(rows, measured), encoding="utf-8", newline="\n")
    return folder / "table.md"


def discrepancy(published: float | None, measured: float | None) -> float | None:
    """By what share a measured number is off a published one; None within the published one's last digit."""
    if published is None or measured is None:
        return None
    printed = Decimal(repr(published))
    last = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    if abs(Decimal(repr(measured)) - printed) <= last / 2:
        return None
    return measured / published - 1


def _measured(row: Mapping[str, Any], children: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """flops_g, params_m, size_mb and the profile stage's fingerprint, from the row's run; empty without one."""
    size = row["imgsz"]
    for child in children:
        params, metrics = child["params"], child["metrics"]
        if (params.get("experiment"), params.get("model.classes")) != (row["id"], str(CLASSES)):
            continue
        if f"flops/{size}" not in metrics:
            continue
        origin = [s for s in child["fingerprints"] if s["kind"] == "profile" and s["imgsz"] == size]
        return {
            "flops_g": metrics[f"flops/{size}"] / 1e9,
            "params_m": metrics[f"params/{size}"] / 1e6,
            "size_mb": metrics[f"size_{row['published']['size_dtype']}_mb/{size}"],
            "profile_fingerprint": origin[0]["fingerprint"] if origin else "",
        }
    return {}


def _cells(row: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    published = row["published"]
    same = row["network"].lower() == row["name"].lower()
    cells = [row["id"], row["name"] if same else f"{row['name']} ({row['network']})", str(row["imgsz"])]
    for quantity in QUANTITIES:
        dtype = f" {published['size_dtype']}" if quantity == "size_mb" else ""
        cells.append(_printed(published[quantity]) + (dtype if published[quantity] is not None else ""))
        off = discrepancy(published[quantity], measured.get(quantity))
        found = significant(measured[quantity]) if quantity in measured else "–"
        cells.append(found if off is None else f"{found} ({100 * off:+.1f} %)".replace("-", "−"))
    return [*cells, _printed(published["map50"]), _printed(published["map"])]


def _printed(value: float | None) -> str:
    return "–" if value is None else str(value)


def _csv(rows: list[Mapping[str, Any]], measured: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    keys = ("id", "name", "network", "recipe", "imgsz")
    names = [f"{kind}_{q}" for q in QUANTITIES for kind in ("published", "measured", "relative")]
    header = [*keys, *names, "size_dtype", "published_map50", "published_map", "profile_fingerprint"]
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    for row, found in zip(rows, measured, strict=True):
        published = row["published"]
        record = {key: row[key] for key in keys} | {"size_dtype": published["size_dtype"]}
        record |= {f"published_{key}": published[key] for key in (*QUANTITIES, "map50", "map")}
        record |= {f"measured_{quantity}": found.get(quantity) for quantity in QUANTITIES}
        record |= {f"relative_{q}": discrepancy(published[q], found.get(q)) for q in QUANTITIES}
        writer.writerow(record | {"profile_fingerprint": found.get("profile_fingerprint")})
    return text.getvalue()


def _check(found: Any, known: Mapping[str, Any], where: str) -> None:
    """Raises UserError unless `found` has the known keys, all and no others, of the right types."""
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected the keys {', '.join(known)}; found {found!r}")
    for key, value in found.items():
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'. {nearest(key, known)}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key}: expected {_types(known[key])}, found {value!r}")
    for key in known:
        if key not in found:
            raise UserError(f"{where}: key '{key}' is missing; expected {', '.join(known)}")


def _types(known: Any) -> str:
    words = {str: "text (quote it if it looks like a number)", int: "a whole number", float: "a number"}
    words |= {dict: "a group of keys", list: "a list", type(None): "null"}
    return " or ".join(words[kind] for kind in (known if isinstance(known, tuple) else (known,)))
