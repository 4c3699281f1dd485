"""What changes a fingerprint and what must not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ablab.study import fingerprint as fp

BASE = "import math\n\ndef f(x):\n    return math.sqrt(x) + 1\n"


def digest_of(tmp_path: Path, text: str) -> str:
    (tmp_path / "part.py").write_text(text)
    fp._code.cache_clear()
    return fp.code(["part"])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "same",
    [
        '"""A docstring."""\n' + BASE,
        BASE.replace("def f(x):", 'def f(x):\n    """Also here."""'),
        BASE.replace("+ 1", "+ 1  # why"),
        BASE.replace("    return", "\n\n    return"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path, same: str) -> None:
    assert digest_of(tmp_path, same) == digest_of(tmp_path, BASE)


@pytest.mark.parametrize("other", [BASE.replace("+ 1", "+ 2"), BASE.replace("sqrt", "cbrt"), BASE + "g = f\n"])
def test_a_changed_number_or_name_counts(tmp_path: Path, other: str) -> None:
    assert digest_of(tmp_path, other) != digest_of(tmp_path, BASE)


def test_an_imported_module_counts_and_an_unrelated_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("a = 1\n")
    (tmp_path / "unrelated.py").write_text("a = 1\n")
    text = "from helper import a\n" + BASE
    before = digest_of(tmp_path, text)
    (tmp_path / "unrelated.py").write_text("a = 2\n")
    assert digest_of(tmp_path, text) == before
    (tmp_path / "helper.py").write_text("a = 2\n")
    assert digest_of(tmp_path, text) != before


def test_a_string_that_looks_like_a_docstring_counts_as_an_argument() -> None:
    one, two = ast.parse("f('a')"), ast.parse("f('b')")
    assert fp._canonical(one) != fp._canonical(two)


def test_targets_are_found_at_any_depth() -> None:
    config = {"stem": {"_target_": "my.parts.Stem"}, "list": [{"_target_": "other.Part"}]}
    assert sorted(fp.targets(config)) == ["my.parts", "other"]


def test_canonical_json_ignores_key_order() -> None:
    assert fp.digest({"a": 1, "b": [1.5, None]}) == fp.digest({"b": [1.5, None], "a": 1})


def test_a_target_outside_the_working_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "outside").mkdir(parents=True)
    (elsewhere / "outside" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    digests = []
    for number in (1, 2):
        (elsewhere / "outside" / "deep.py").write_text(f"a = {number}\n")
        (elsewhere / "outside" / "parts.py").write_text("from outside.deep import a\n")
        fp._code.cache_clear()
        digests.append(fp.code(["outside.parts"]))
    assert digests[0] != digests[1]


def test_an_installed_target_counts_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fp.code(["torchvision.models"])
    fp._code.cache_clear()
    monkeypatch.setattr(fp, "_version", lambda name: "another")
    assert fp.code(["torchvision.models"]) != before


def test_an_empty_string_within_an_f_string_does_not_count() -> None:
    """Python 3.12.1 parses f"{x:>{w}}" with one more empty constant than 3.11 and 3.13."""
    tree = ast.parse('f"{x:>{w}}"')
    other = ast.parse('f"{x:>{w}}"')
    for node in ast.walk(other):
        if isinstance(node, ast.JoinedStr):
            node.values.append(ast.Constant(""))
    assert fp._canonical(tree) == fp._canonical(other)
