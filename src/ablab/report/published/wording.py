"""Readings as a few words, findings as sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import numpy as np

from ablab.report.published.column import Read, Row
from ablab.report.published.conventions import Network
from ablab.report.published.findings import Finding, unscaled
from ablab.report.published.readings import BINARY, COLUMNS, PLAIN, Cell, simplest, value_of

NAMES = {"flops": "FLOPs", "params": "params", "size": "size"}
UNITS = {"flops": " G", "params": " M", "size": ""}
CONVENTIONS = {
    "K1": "2 × convolution MACs",
    "K2": "2 × thop 0.0.31, which adds biases and 2 an element of BatchNorm",
    "K3": "2 × thop 0.1, which adds 4 an element of BatchNorm, and upsampling",
    "K4": "counted at 32 × 32 px and multiplied by the area",
    "K5": "K2 divided by 0.9 × 10⁹ in place of 10⁹",
    "K6": "mmcv's count (biases, BatchNorm, activations, what enters pools), rounded to 0.01 G and then doubled",
    "K7": "darknet's count, which adds comparisons of pools and sums of shortcuts",
}
SAID = {
    "trained": "as trained",
    "folded": "with BatchNorm folded",
    "learnable": "learnable ones",
    "stored": "all stored",
}


class Wording:
    """Words for one explained table. cells: (row id, column) -> Read."""

    def __init__(
        self, rows: Iterable[Row], networks: Mapping[str, Network], cells: Mapping[tuple[str, str], Read]
    ) -> None:
        self.rows = {row.id: row for row in rows}
        self.networks, self.cells = networks, cells

    def label(self, id: str, column: str) -> str:
        """How a figure was counted, as in `K2 folded`, `stored`, `fp16 MiB + 0.2`."""
        row, read = self.rows[id], self.cells[id, column]
        taken = simplest(column, self.networks[row.network], read.imgsz, read.taken)
        factor = taken["factor"]
        if column == "flops":
            folded = " folded" if taken["form"] == "folded" else ""
            count = "K5" if (taken["count"], folded, times(factor)) == ("K2", "", "÷ 0.9") else taken["count"]
            factor = 1.0 if count == "K5" else factor
            words = f"{'K4 of ' if taken['scaled'] else ''}{count}{folded}"
        elif column == "params":
            words = str(taken["counted"])
        else:
            words = f"{taken['dtype']} {taken['unit']}"
            words += "" if taken["counted"] == "stored" else f" {taken['counted']}"
        words += " + never run" if taken.get("never_run") else ""
        words += f" {times(factor)}" if factor != 1.0 else ""
        words += f" + {taken['file']:g}" if taken.get("file") else ""
        return words + (f" at {read.imgsz} px" if read.imgsz != row.imgsz else "")

    def value(self, id: str, column: str) -> str:
        """What the reading gives, to one digit more than was printed."""
        read = self.cells[id, column]
        return shown(read.value, read)

    def sentence(self, found: Finding) -> str:
        """One finding, with its figures."""
        tells = {"swapped": self._swapped, "size": self._size, "factor": self._factor, "scaled": self._scaled}
        tells |= {"dtype": self._mixed, "unit": self._mixed, "unexplained": self._unexplained}
        return tells.get(found.kind, self._otherwise)(found)

    def cut(self, findings: Sequence[Finding]) -> str:
        """All figures whose digits were cut off, in one sentence."""
        told = []
        for id, column in ((id, one.column) for one in findings for id in one.rows):
            read = self.cells[id, column]
            printed = f"{self.value(id, column)} printed as {read.printed}{self._unless(id, column)}"
            told.append(f"{NAMES[column]} in row {read.printed_in} ({printed})")
        return f"Digits are cut off, not rounded: {listed(told)}."

    def _unless(self, id: str, column: str) -> str:
        """What else a cut figure may be, if another count of the same kind rounds to it."""
        read, net = self.cells[id, column], self.networks[self.rows[id].network]
        for count in PLAIN[column].get("count", ()):
            value = value_of(column, {**read.taken, "count": count}, net, read.imgsz)
            if Cell(read.printed).match(np.array(value)) == 0:
                way = f"{count}{' folded' if read.taken['form'] == 'folded' else ''}"
                return f", unless it is {shown(value, read)} by {way}, rounded"
        return ""

    def ways(self) -> list[str]:
        """In how many ways FLOPs and params are counted over the tables, where it is more than one."""
        told = []
        for column in ("flops", "params"):
            ways = dict.fromkeys(
                self.label(id, which).partition(" at ")[0]
                for (id, which), read in self.cells.items()
                if which == column and read.how != "unexplained"
            )
            if len(ways) > 1:
                told.append(f"{NAMES[column]} are counted in {len(ways)} ways: {listed(sorted(ways))}.")
        return [text[0].upper() + text[1:] for text in told]

    def _swapped(self, found: Finding) -> str:
        names = listed([NAMES[column] for column in COLUMNS if column in found.value])
        sentences = [f"The {names} of {self._who(found.rows)} are swapped."]
        for id in found.rows:
            reads = {column: self.cells[id, column] for column in found.value if (id, column) in self.cells}
            measured = [f"{self.value(id, column)}{UNITS[column]}" for column in reads]
            printed = [f"{read.printed}{UNITS[column]}" for column, read in reads.items()]
            other = next(one for one in found.rows if one != id)
            counted = f"{self.rows[id].name}, counted as below, comes to {listed(measured)}"
            sentences.append(f"{counted}: row {other} has {listed(printed)}.")
        return " ".join(sentences)

    def _size(self, found: Finding) -> str:
        (id,) = found.rows
        row, read = self.rows[id], self.cells[id, found.column]
        twins = [r.id for r in self.rows.values() if (r.network, r.imgsz) == (row.network, found.value)]
        there = f", where row {twins[0]} has them" if twins else ""
        own = value_of(found.column, read.taken, self.networks[row.network], row.imgsz)
        return (
            f"The FLOPs of {self._who([id])} at {row.imgsz} px, {read.printed} G, are those at {found.value} px"
            f"{there}; counted in the same way they are {shown(own, read)} G."
        )

    def _factor(self, found: Finding) -> str:
        how = times(found.value).replace("×", "multiplied by").replace("÷", "divided by")
        unit, how = UNITS[found.column], {2.0: "doubled", 0.5: "halved"}.get(found.value, how)
        printed, right = [], []
        for id in found.rows:
            row, read = self.rows[id], self.cells[id, found.column]
            printed.append(str(read.printed))
            plain = value_of(found.column, {**read.taken, "factor": 1.0}, self.networks[row.network], read.imgsz)
            right.append(shown(plain, read))
        verb = "is" if found.column == "size" and len(found.rows) == 1 else "are"
        return (
            f"The {NAMES[found.column]} of {self._who(found.rows)} {verb} {how}: "
            f"{listed(printed)}{unit} for {listed(right)}{unit}."
        )

    def _scaled(self, found: Finding) -> str:
        (id,) = found.rows
        row, read = self.rows[id], self.cells[id, found.column]
        net = self.networks[row.network]
        return (
            f"The FLOPs of {self._who([id])}, {read.printed} G, were counted at {net.stride} × {net.stride} px and "
            f"multiplied by the area; at {read.imgsz} px they are {shown(unscaled(read, net), read)} G, since what "
            "follows a pool over the whole map does not grow with the image."
        )

    def _mixed(self, found: Finding) -> str:
        return f"Sizes mix {found.kind}s: {found.value} in {self._in(found.rows)}, {self._usual(found)} in the others."

    def _otherwise(self, found: Finding) -> str:
        family, name = self.rows[found.rows[0]].family, NAMES[found.column]
        values = [shown(self.cells[id, found.column].value, self.cells[id, found.column]) for id in found.rows]
        if found.kind == "never_run":
            what, usual = "with parameters that are never run", "without"
        else:
            what, usual = (SAID.get(one, f"by {one}") for one in (found.value, self._usual(found)))
        return (
            f"The {name} of {family} are counted {what} in {self._in(found.rows)} "
            f"({listed(values)}{UNITS[found.column]}), {usual} in its others: they cannot be compared."
        )

    def _unexplained(self, found: Finding) -> str:
        (id,) = found.rows
        read = self.cells[id, found.column]
        return (
            f"Nothing reproduces the {NAMES[found.column]} of {self._who([id])}, {read.printed}{UNITS[found.column]}; "
            f"counted as its likes are ({self.label(id, found.column)}), it would be {self.value(id, found.column)}."
        )

    def _usual(self, found: Finding) -> str:
        """What the rest takes where these rows take something else."""
        family = self.rows[found.rows[0]].family if found.kind not in ("dtype", "unit") else None
        others = [
            str(read.taken[found.kind])
            for (id, column), read in self.cells.items()
            if column == found.column and family in (None, self.rows[id].family) and read.how != "unexplained"
        ]
        return max(others, key=others.count)

    def _who(self, ids: Sequence[str]) -> str:
        by_name: dict[str, list[str]] = {}
        for id in ids:
            by_name.setdefault(self.rows[id].name, []).append(id)
        return listed([f"{name} ({', '.join(those)})" for name, those in by_name.items()])

    def _in(self, ids: Sequence[str]) -> str:
        return f"row {ids[0]}" if len(ids) == 1 else f"rows {listed(ids)}"


def times(factor: float) -> str:
    """A factor as a formula would have it: `× 1.1`, `÷ 0.9`, `÷ 1.024²`."""
    if factor in BINARY:
        power = round(math.log(factor, 1.024))
        return f"{'×' if power > 0 else '÷'} 1.024{('', '²', '³')[abs(power) - 1]}"
    direct, inverse = (Decimal(f"{number:.6g}").normalize() for number in (factor, 1 / factor))
    return f"× {direct:f}" if len(direct.as_tuple().digits) <= len(inverse.as_tuple().digits) else f"÷ {inverse:f}"


def shown(value: float, read: Read) -> str:
    """A value to one digit more than the figure has."""
    return f"{value:.{1 - int(read.printed.as_tuple().exponent)}f}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + list(words[-1:]))
