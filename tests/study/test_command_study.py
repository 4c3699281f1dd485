"""Studies over a command: what they plan, what counts for a fingerprint, and how a wrong one is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablab.config import Override
from ablab.data.identity import describe
from ablab.errors import UserError
from ablab.study.plan import Plan, compile
from ablab.study.study import load

GOOD = """
question: How deep?
command:
  run: python train.py --depth {depth} --trees={trees} --seed {seed} --out {out} --state {work} -j {threads}
  numbers: metrics.json
  keep: ["*.joblib"]
  code: [train.py]
  data: [digits.csv, more]
base: {depth: 3, trees: 50, engine.threads: 2}
factors:
  depth: {shallow: {depth: 3}, deep: {depth: 8}}
  trees: {50: {trees: 50}, 200: {trees: 200}}
design: grid
seeds: [0, 1]
measure: {accuracy: higher, seconds: lower}
"""
TRAIN = "import json, helper\nfrom package.part import thing\n\nx = 1\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "sweeps/mine.yaml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    write(TRAIN, "train.py")
    write("y = 1\n", "helper.py")
    write("", "package/__init__.py")
    write("from . import other\nthing = 1\n", "package/part.py")
    write("", "package/other.py")
    write("1,2\n", "digits.csv")
    write("3,4\n", "more/deep/a.csv")
    return write


def plan(*overrides: Override) -> Plan:
    cache = Path.cwd() / "cache.json"
    return compile(load("mine", overrides), lambda group: describe(group, cache))


def fingerprints(*overrides: Override) -> list[str]:
    return list(plan(*overrides).stages)


def test_a_replicate_is_one_stage_with_its_words(write: Callable) -> None:
    write(GOOD)
    found = plan()
    assert [(r.variant.name, r.seed, len(r.stages)) for r in found.replicates] == [
        (name, seed, 1) for seed in (0, 1) for name in ("baseline", "trees=200", "depth=deep", "depth=deep trees=200")
    ]
    assert len(found.stages) == 8
    stage = found.stages[found.replicates[-1].stages[0]]
    assert (stage.kind, stage.label) == ("command", "run, seed 1")
    words = "python train.py --depth 8 --trees=200 --seed 1 --out {out} --state {work} -j 2"
    assert stage.config["command"]["run"] == words.split()
    assert stage.config["engine"] == {"threads": 2}
    assert found.study.measure == {"accuracy": "higher", "seconds": "lower"}
    config = found.replicates[-1].config
    assert config["arguments"] == {"depth": 8, "trees": 200}
    assert config.keys() == {"arguments", "command", "engine", "store", "tracking", "reports"}  # no detector


def test_a_list_of_words_and_nested_keys(write: Callable) -> None:
    run = '[python, train.py, "--lr={optim.lr}", "a b", "{{x}}", "{out}", "{seed}", "{depth}", "{trees}"]'
    write(
        GOOD.replace("python train.py --depth {depth} --trees={trees} --seed {seed} --out {out} --state {work} "
                     "-j {threads}", run).replace("base: {", "base: {optim: {lr: 1e-3}, ")
    )  # fmt: skip
    stage = next(iter(plan().stages.values()))
    assert stage.config["command"]["run"][2:6] == ["--lr=0.001", "a b", "{{x}}", "{out}"]
    stage = next(iter(plan(Override("optim", {"lr": 0.5})).stages.values()))
    assert stage.config["command"]["run"][2] == "--lr=0.5"


def test_keys_from_the_command_line(write: Callable) -> None:
    write(GOOD.replace("  trees: {50: {trees: 50}, 200: {trees: 200}}\n", ""))
    found = plan(Override("trees", 7), Override("store", "elsewhere"), Override("engine.threads", 1))
    assert {s.config["command"]["run"][4] for s in found.stages.values()} == {"--trees=7"}
    assert {s.config["command"]["run"][-1] for s in found.stages.values()} == {"1"}
    assert found.replicates[0].config["store"] == "elsewhere"


# ------------------------------------------------------------------------------------------------ what counts


def test_what_does_not_change_a_result_does_not_count(write: Callable, tmp_path: Path) -> None:
    write(GOOD)
    before = fingerprints()
    write('"""What it does."""\n' + TRAIN.replace("x = 1", "x = 1  # why"), "train.py")
    write("unrelated = 1\n", "unrelated.py")
    write(GOOD.replace("accuracy: higher", "log_loss: lower").replace("How deep?", "Why?").replace("shallow", "flat"))
    assert fingerprints() == before
    os.utime(tmp_path / "digits.csv", (1, 1))
    assert fingerprints() == before
    literal = GOOD.replace("--trees={trees}", "--trees=50").replace("base: {depth: 3, trees: 50", "base: {depth: 3")
    write(literal.replace("  trees: {50: {trees: 50}, 200: {trees: 200}}\n", ""))
    assert set(fingerprints()) < set(before)  # the same words, however they are written


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.py", TRAIN + "z = 1\n"),
        ("helper.py", "y = 2\n"),  # imported, from the script's own folder
        ("package/part.py", "from . import other\nthing = 2\n"),
        ("package/other.py", "new = 1\n"),
        ("package/__init__.py", "new = 1\n"),
        ("digits.csv", "1,3\n"),
        ("more/deep/a.csv", "3,5\n"),
        ("more/b.csv", ""),
        ("sweeps/mine.yaml", GOOD.replace("engine.threads: 2", "engine.threads: 1")),
        ("sweeps/mine.yaml", GOOD.replace("*.joblib", "*.model")),
        ("sweeps/mine.yaml", GOOD.replace("metrics.json", "m.json")),
        ("sweeps/mine.yaml", GOOD.replace("python train.py", "python -u train.py")),
    ],
)
def test_what_may_change_a_result_counts(write: Callable, name: str, text: str) -> None:
    write(GOOD)
    before = fingerprints()
    write(text, name)
    assert not set(fingerprints()) & set(before)


def test_versions_of_imported_libraries_count(write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.study import fingerprint

    write(GOOD)
    write(TRAIN + "import sklearn.ensemble\n", "train.py")
    before = plan()
    assert set(next(iter(before.stages.values())).versions) == {"scikit-learn"}
    monkeypatch.setattr(fingerprint, "_version", lambda name: "another")
    assert not set(fingerprints()) & set(before.stages)


def test_a_file_that_is_not_python_counts_by_its_bytes(write: Callable) -> None:
    write(GOOD.replace("code: [train.py]", 'code: [train.py, "conf/**/*.yaml"]'))
    write("a: 1\n", "conf/deep/a.yaml")
    before = fingerprints()
    write("a: 1 # why\n", "conf/deep/a.yaml")
    assert not set(fingerprints()) & set(before)


def test_data_is_not_read_again_while_size_and_time_stay(write: Callable, tmp_path: Path) -> None:
    write(GOOD)
    for name in ("digits.csv", "more/deep/a.csv", "more/deep", "more"):
        os.utime(tmp_path / name, (1, 1))
    before = fingerprints()
    write("9,9\n", "digits.csv")  # as long as it was
    os.utime(tmp_path / "digits.csv", (1, 1))
    assert fingerprints() == before
    os.utime(tmp_path / "digits.csv", (2, 2))
    assert not set(fingerprints()) & set(before)


# ------------------------------------------------------------------------------------------------ what is refused

WRONG: list[tuple[str, str, list[str]]] = [
    ("  numbers", "  number", ["command: unknown key 'number'", "Did you mean 'numbers'?"]),
    ("  numbers: metrics.json\n", "", ["command: key 'numbers' is missing"]),
    ("  code: [train.py]\n", "", ["key 'code' is missing", "`code: []` if no file counts"]),
    ("code: [train.py]", "code: train.py", ["command.code: expected a list of texts, found 'train.py'"]),
    ("code: [train.py]", "code: [trian.py]", ["command.code: no file in", "matches 'trian.py'"]),
    ("data: [digits.csv", "data: [digit.csv", ["data: digit.csv: there is no such file"]),
    ("metrics.json", "metrics.txt", ["command.numbers", "ends with .json or .csv", "'metrics.txt'"]),
    ("metrics.json", "/tmp/m.json", ["command.numbers", "lies in {out}", "'/tmp/m.json'"]),
    ('"*.joblib"', '"../*"', ["command.keep", "lies in {out}", "'../*'"]),
    ("run: python", "run: pyhton", ["command.run: 'pyhton' is no program"]),
    ("--out {out}", "", ["command.run: it has no {out}"]),
    ("--seed {seed}", "", ["command.run: it has no {seed}", "2 seeds would be one run 2 times"]),
    ("--out {out}", "--out {out} '", ["command.run: No closing quotation"]),
    ("--out {out}", "--out {out} {", ["command.run", "Single '{'"]),
    ("--depth {depth}", "--depth {depth} {width}", ["command.run: {width} has no value", "`base`"]),
    (
        "base: {depth: 3",
        "base: {depht: 3",
        ["unknown key 'depht'", "sweeps/mine.yaml", "no {depht}", "Did you mean 'depth'?"],
    ),
    ("{depth: 8}", "{depht: 8}", ["unknown key 'depht'", "depth=deep", "Did you mean 'depth'?"]),
    ("base: {", "base: {model: yolov5n, ", ["unknown key 'model'", "no {model}"]),
    ("base: {", "base: {out: here, ", ["out", "ablab itself fills in {out}"]),
    ("depth: 3, trees", "depth: .nan, trees", ["depth=nan", "a finite number"]),
    ("engine.threads: 2", "engine.threads: 0", ["engine.threads=0"]),
    ("engine.threads: 2", "engine.thread: 2", ["engine.thread", "Did you mean 'engine.threads'?"]),
    ("accuracy: higher", "accuracy: up", ["measure: accuracy: which way is better?", "higher or lower", "'up'"]),
    ("measure: {accuracy: higher, seconds: lower}", "", ["measure: name a number"]),
    ("accuracy: higher", "depth: higher", ["measure: 'depth' is another column's name"]),
    ("accuracy: higher", "seed: higher", ["measure: 'seed' is another column's name"]),
    ("accuracy: higher", '"acc (%)": higher', ["measure: 'acc (%)'", "letters"]),
    ("seeds: [0, 1]", "seeds: []", ["seeds", "found []"]),
]


@pytest.mark.parametrize(("old", "new", "says"), WRONG, ids=[new for _, new, _ in WRONG])
def test_a_wrong_study_is_refused(write: Callable, old: str, new: str, says: list[str]) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if "depht: 3" in new or ".nan" in new:  # else every level would give it a value
        text = text.replace("shallow: {depth: 3}, ", "shallow: {}, ")
    write(text)
    with pytest.raises(UserError) as refused:
        plan()
    for word in says:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (Override("tree", 5), "unknown key 'tree' (from the command line): the command has no {tree}. Did you mean"),
        (Override("stem", "focus"), "unknown key 'stem'"),
        (Override("depth", 5), "the factor 'depth'"),
        (Override("seed", 5), "seed=5 would change nothing"),
        (Override("seeds", [5, 5]), "distinct"),
    ],
)
def test_a_wrong_override_is_refused(write: Callable, override: Override, says: str) -> None:
    write(GOOD)
    with pytest.raises(UserError) as refused:
        plan(override)
    assert says in str(refused.value)


def test_a_script_that_is_no_python_is_named(write: Callable) -> None:
    write(GOOD)
    write("x = = 1", "helper.py")
    with pytest.raises(UserError, match=r"helper\.py: not valid Python at line 1"):
        plan()


def test_one_seed_needs_no_placeholder(write: Callable) -> None:
    write(GOOD.replace("--seed {seed}", "").replace("seeds: [0, 1]", "seeds: [5]"))
    once = fingerprints()
    assert fingerprints(Override("seeds", [6])) == once


def test_the_record_of_a_study(write: Callable, tmp_path: Path) -> None:
    from ablab.store import Store
    from ablab.study.record import record

    write(GOOD)
    found: dict[str, Any] = record(plan(), Store(tmp_path / "store"), {})
    assert found["measure"] == {"accuracy": "higher", "seconds": "lower"}
    assert found["command"]["run"].startswith("python train.py --depth {depth} --trees={trees}")
    assert found["resolutions"] == []
    assert found["variants"][2]["levels"] == {"depth": "deep", "trees": "50"}
    assert {r["status"] for v in found["variants"] for r in v["replicates"]} == {"incomplete"}
