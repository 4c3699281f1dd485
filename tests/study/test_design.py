"""Designs against their definitions, counted by hand."""

from __future__ import annotations

from ablab.study.design import DESIGNS, name

FACTORS = {"stem": ["focus", "conv"], "c3": ["3", "2", "1"], "head": ["full", "half"]}


def points(design: str, listed: list[dict[str, str]] | None = None) -> list[tuple[str, ...]]:
    return [tuple(p[f] for f in FACTORS) for p in DESIGNS[design](FACTORS, listed or [])]


def test_grid_has_every_combination_once_with_the_baseline_first() -> None:
    found = points("grid")
    assert len(found) == len(set(found)) == 2 * 3 * 2
    assert found[0] == ("focus", "3", "full")


def test_one_at_a_time() -> None:
    assert points("one_at_a_time") == [
        ("focus", "3", "full"),
        ("conv", "3", "full"),
        ("focus", "2", "full"),
        ("focus", "1", "full"),
        ("focus", "3", "half"),
    ]


def test_leave_one_out_starts_from_the_full_system() -> None:
    assert points("leave_one_out") == [
        ("conv", "1", "half"),
        ("focus", "1", "half"),
        ("conv", "3", "half"),
        ("conv", "1", "full"),
    ]


def test_ladder_piles_changes_up() -> None:
    assert points("ladder") == [
        ("focus", "3", "full"),
        ("conv", "3", "full"),
        ("conv", "2", "full"),
        ("conv", "1", "full"),
        ("conv", "1", "half"),
    ]


def test_list_fills_what_is_left_out_with_the_first_level() -> None:
    assert points("list", [{"c3": "1"}, {"head": "half", "stem": "conv"}]) == [
        ("focus", "1", "full"),
        ("conv", "3", "half"),
    ]


def test_names_say_the_difference() -> None:
    base = {"stem": "focus", "head": "full"}
    assert name(base, base, "grid", None) == "baseline"
    assert name({"stem": "conv", "head": "half"}, base, "grid", None) == "stem=conv head=half"
    assert name({"stem": "conv", "head": "half"}, base, "ladder", {"stem": "conv", "head": "full"}) == "+ head=half"
