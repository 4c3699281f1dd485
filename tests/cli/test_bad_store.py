"""Stores that cannot be used, wrong words about them, files that are no exported study, damage that is mended."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from working_folder import Folder

VERBS = [
    ["plan", "study=tiny"],
    ["sweep", "study=tiny"],
    ["status"],
    ["store", "ls"],
    ["store", "verify"],
    ["store", "gc", "delete=true"],
    ["store", "export", "study=tiny", "file=x.tar"],
    ["store", "import", "file=there.tar"],
]
NAMES = [" ".join(words[:2]) for words in VERBS]


@pytest.mark.parametrize("words", VERBS, ids=NAMES)
def test_a_store_of_a_newer_ablab(bare: Folder, words: list[str]) -> None:
    file = bare.write(".ablab/store/store.json", '{"format": 99}')
    bare.write("there.tar", "")
    bare.refused(*words, says=["written by a newer ablab (format 99", "update ablab", ".ablab/store"])
    assert file.read_text() == '{"format": 99}'
    assert [entry.name for entry in file.parent.iterdir()] == ["store.json"]


@pytest.mark.parametrize("words", VERBS, ids=NAMES)
def test_an_unknown_protocol(bare: Folder, words: list[str]) -> None:
    bare.write("there.tar", "")
    bare.refused(*words, "store=s4://x", says=["store=s4://x: unknown protocol 's4'", "Did you mean 's3'?"])


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
@pytest.mark.parametrize("words", VERBS, ids=NAMES)
def test_a_protocol_whose_library_is_not_installed(bare: Folder, words: list[str]) -> None:
    bare.write("there.tar", "")
    bare.refused(*words, "store=gs://x", says=["store=gs://x: gcsfs is needed", "pip install gcsfs"])


@pytest.mark.parametrize(
    "store",
    [
        "",
        "s3:/bucket/x",
    ],
)
def test_a_place_that_is_a_slip(bare: Folder, store: str) -> None:
    bare.refused("store", "ls", f"store={store}", says=[f"store={store}"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frobnicate"], ["ablab store frobnicate", "export, gc, import, ls, verify"]),
        ([], ["expected one of its words", "export, gc, import, ls, verify"]),
        (["ls", "foo"], ["'foo' is not an override", "key=value"]),
        (["export", "study=tiny"], ["name file="]),
        (["export", "file=x.tar"], ["name study="]),
        (["export", "study=nope", "file=x.tar"], ["study=nope", "knows no such study", "There are: tiny"]),
        (["export", "study=tiny", "file=nowhere/x.tar"], ["file=nowhere/x.tar", "there is no folder nowhere"]),
        (["export", "study=tiny", "file=."], ["file=."]),
        (["import"], ["name file="]),
        (["import", "file=nowhere.tar"], ["file=nowhere.tar: there is no such file"]),
        (["import", "file=."], ["Is a directory"]),
        (["gc", "delete=yes"], ["delete=yes: expected true or false"]),
    ],
)
def test_a_wrong_word(finished: Folder, words: list[str], says: list[str]) -> None:
    before = finished.published()
    finished.refused("store", *words, says=says)
    assert finished.published() == before
    assert list(finished.path.glob("**/*.tmp")) == []


def repacked(whole: Path, change: str) -> bytes:
    """An exported study with one thing wrong."""
    if change == "text":
        return b"not a tar file"
    if change == "cut":
        return whole.read_bytes()[: whole.stat().st_size // 2]
    made = io.BytesIO()
    with tarfile.open(whole) as source, tarfile.open(fileobj=made, mode="w") as target:
        for member in source:
            content = bytearray(source.extractfile(member).read())  # type: ignore[union-attr]
            if change == "bits" and member.name.endswith("weights.safetensors"):
                content[-1] ^= 255
            target.addfile(member, io.BytesIO(content))
        if change == "outside":
            member = tarfile.TarInfo("../outside")
            member.size = 1
            target.addfile(member, io.BytesIO(b"x"))
    return made.getvalue()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("text", ["file=bad.tar: no tar file that `ablab store export` wrote"]),
        ("cut", ["file=bad.tar: no tar file that `ablab store export` wrote"]),
        ("bits", ["weights.safetensors: not as it was published", "Nothing was imported"]),
        ("outside", ["file=bad.tar: '../outside' does not belong in an exported study"]),
    ],
)
def test_a_file_that_is_no_exported_study_leaves_nothing(finished: Folder, change: str, says: list[str]) -> None:
    assert finished.run("store", "export", "study=tiny", "file=whole.tar").code == 0
    finished.write("bad.tar", repacked(finished.path / "whole.tar", change))
    finished.refused("store", "import", "file=bad.tar", "store=other/store", says=says)
    assert list((finished.path / "other").glob("**/stage.json")) == []
    assert list(finished.path.glob("**/outside")) == []
    good = finished.run("store", "import", "file=whole.tar", "store=other/store")
    assert good.code == 0, good.err


def test_a_checksum_that_does_not_match_is_named_put_aside_and_mended(finished: Folder) -> None:
    """One bit of a training's weights, whose evaluation is gone and so has to read them."""
    stage = next(file.parent for file in finished.published() if (file.parent / "weights.safetensors").exists())
    weights = stage / "weights.safetensors"
    before = weights.read_bytes()
    for file in finished.published():
        record = json.loads(file.read_text())
        if record["kind"] == "evaluate" and stage.name in record["inputs"].values():
            shutil.rmtree(file.parent)
    weights.chmod(0o644)
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))

    result = finished.run("sweep", "tiny")
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    assert f"{weights}: not as it was published" in result.err
    aside = next((finished.path / ".ablab/store/quarantine").glob(f"{stage.name}*"))
    assert str(aside) in result.err
    assert (aside / "weights.safetensors").read_bytes() != before
    assert weights.read_bytes() == before
    assert finished.run("store", "verify").code == 0
