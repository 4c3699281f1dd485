"""The published tables as Markdown and CSV: printed beside measured, what is wrong, how each figure comes about."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any

from ablab.report.published.conventions import Network, flops
from ablab.report.published.findings import Finding
from ablab.report.published.readings import COLUMNS
from ablab.report.published.wording import CONVENTIONS, Wording
from ablab.report.table import markdown, significant

KEYS = {"flops": "flops_g", "params": "params_m", "size": "size_m"}
HEADERS = {"FLOPs (G)": "measured", "Params (M)": "measured", "Size (M)": "fp16 (MB)"}
WRONG = ("swapped", "size", "factor", "scaled", "unexplained")  # of findings, those that a figure is marked with
ONE_LETTER = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
LETTERS = [*ONE_LETTER, *map("".join, product(ONE_LETTER, repeat=2))]

File = Mapping[str, Any]  # a file of `experiments/`


def like_for_like(net: Network, imgsz: int) -> dict[str, float]:
    """Every cost under one convention: 2 × convolution MACs in G, learnable M, MB of all stored numbers as fp16."""
    return {
        "flops": flops("K1", net.at("trained", imgsz)),
        "params": net.learnable / 1e6,
        "size": net.stored * 2 / 1e6,
    }


def discrepancy(published: float | None, found: float | None) -> float | None:
    """By what share a measured number is off a published one; None within the published one's last digit."""
    if published is None or found is None:
        return None
    printed = Decimal(repr(published))
    last = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    if abs(Decimal(repr(found)) - printed) <= last / 2:
        return None
    return found / published - 1


def to_markdown(
    files: Sequence[File], networks: Mapping[str, Network], findings: Sequence[Finding], wording: Wording
) -> str:
    """The page: what was printed beside what is measured, the findings, and how every figure comes about."""
    wrong = [one for one in findings if one.kind in WRONG]
    marks: dict[tuple[str, str], str] = {}
    for letter, one in zip(LETTERS, wrong, strict=False):
        for row in one.rows:
            for column in one.value if one.kind == "swapped" else [one.column]:
                marks[row, column] = marks.get((row, column), "") + letter
    told = [f"- {letter} {wording.sentence(one)}\n" for letter, one in zip(LETTERS, wrong, strict=False)]
    told += [f"- {wording.sentence(one)}\n" for one in findings if one.kind not in (*WRONG, "cut")]
    cut = [one for one in findings if one.kind == "cut"]
    told += [f"- {text}\n" for text in ([wording.cut(cut)] if cut else []) + wording.ways()]
    header = ["ID", "Model"]
    compared = [*header, "Input", *(text for pair in HEADERS.items() for text in pair), "mAP50", "mAP"]
    counted = header + [text for name in HEADERS for text in (name, "counted as")]
    words = " ".join(wording.label(*key) for key in wording.cells if key[1] == "flops").split()
    used = [f"- {name}: {what}.\n" for name, what in CONVENTIONS.items() if name in words]
    unmeasured = [file["id"] for file in files if file["recipe"] not in networks]
    return "\n".join(
        [
            "# Published and measured\n",
            "What was printed, and what the same networks cost when all are measured in one way. AP as published.\n",
            markdown(compared, [_compared(file, networks.get(file["recipe"]), marks) for file in files]),
            "- Measured: FLOPs = 2 × convolution MACs of one image; learnable params; MB (10⁶ bytes) of all stored "
            "numbers as fp16; 80 classes. In brackets by how much that is off the printed figure, where it is more "
            "than rounding. Letters: see below.\n"
            + (f"- Not measured: {', '.join(unmeasured)}.\n" if unmeasured else ""),
            "## What the tables get wrong\n",
            "".join(told) or "Nothing was found.\n",
            "## How the printed figures come about\n",
            "What reproduces each figure, and what that gives to one digit more; found with the fewest assumptions, of "
            "which a family of rows shares what it can. In brackets the row where the figure was printed.\n",
            markdown(counted, [_counted(file, wording) for file in files]),
            "".join(used)
            + "- folded: BatchNorm in its convolutions, branches merged; learnable, stored: without and with "
            "BatchNorm's statistics. Sizes are of all stored numbers unless they say otherwise, in MB = 10⁶ or "
            "MiB = 2²⁰ bytes; what is added to one is what a file holds besides.\n"
            f"- Sources: {'; '.join(dict.fromkeys(file['source'] for file in files))}.\n",
        ]
    )


def _compared(file: File, net: Network | None, marks: Mapping[tuple[str, str], str]) -> list[str]:
    same = file["network"].lower() == file["name"].lower()
    cells = [file["id"], file["name"] if same else f"{file['name']} ({file['network']})", str(file["imgsz"])]
    found = like_for_like(net, file["imgsz"]) if net else {}
    for column in COLUMNS:
        published = file["published"][KEYS[column]]
        cells.append(_printed(published) + marks.get((file["id"], column), ""))
        off = discrepancy(published, found.get(column))
        text = significant(found[column]) if column in found else "–"
        digits = 1 if off and abs(off) < 0.01 else 0
        cells.append(text if off is None else f"{text} ({100 * off:+.{digits}f} %)".replace("-", "−"))
    return [*cells, _printed(file["published"]["map50"]), _printed(file["published"]["map"])]


def _counted(file: File, wording: Wording) -> list[str]:
    cells = [file["id"], file["name"]]
    for column in COLUMNS:
        read = wording.cells.get((file["id"], column))
        if read is None or read.how == "unexplained":
            cells += ["–", "–" if read is None else "nothing"]
            continue
        where = f" ({read.printed_in})" if read.printed_in != file["id"] else ""
        cells += [wording.value(file["id"], column) + where, wording.label(file["id"], column)]
    return cells


def to_csv(files: Sequence[File], networks: Mapping[str, Network], wording: Wording, origins: Mapping[str, str]) -> str:
    """Every number in full precision. comes_to: what `counted_as` gives for the figure that belongs in the row."""
    records = []
    for file in files:
        record = {key: file[key] for key in ("id", "name", "network", "recipe", "imgsz")}
        net = networks.get(file["recipe"])
        found = like_for_like(net, file["imgsz"]) if net else {}
        for column, key in KEYS.items():
            read = wording.cells.get((file["id"], column))
            published = file["published"][key]
            record |= {f"published_{key}": published, f"measured_{key}": found.get(column)}
            record |= {f"relative_{key}": discrepancy(published, found.get(column))}
            known = read is not None and read.how != "unexplained"
            record |= {f"counted_as_{key}": wording.label(file["id"], column) if known else None}
            record |= {f"comes_to_{key}": read.value if read and known else None}
        record |= {f"published_{key}": file["published"][key] for key in ("map50", "map")}
        records.append(record | {"profile_fingerprint": origins.get(file["id"])})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _printed(value: float | None) -> str:
    return "–" if value is None else str(value)
