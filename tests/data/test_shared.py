"""One file of pixels for all processes: whole or not at all, made once, never in the way."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablab import machine
from ablab.data import shared as module
from ablab.data.shared import folder, shared

SHAPE = (6, 256, 256, 3)  # 1.2 MB


def image(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, SHAPE[1:], np.uint8)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def counted(seen: list[int]) -> Callable[[int], np.ndarray]:
    def draw(index: int) -> np.ndarray:
        seen.append(index)
        return image(index)

    return draw


def files() -> list[str]:
    return sorted(path.suffix for path in folder().iterdir())


def test_made_once_and_read_only() -> None:
    seen: list[int] = []
    first, second = (shared("a", SHAPE, counted(seen)) for _ in range(2))
    assert seen == [0, 1, 2, 3, 4, 5]
    for found in (first, second):
        np.testing.assert_array_equal(found, np.stack([image(index) for index in range(6)]))
        assert found is not None
        assert not found.flags.writeable
    assert files() == [".lock", ".u8"]


def test_another_source_or_shape_is_another_file() -> None:
    seen: list[int] = []
    shared("a", SHAPE, counted(seen))
    shared("b", SHAPE, counted(seen))
    shared("a", (7, *SHAPE[1:]), counted(seen))
    assert len(seen) == 6 + 6 + 7


def test_another_code_makes_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    shared("a", SHAPE, counted(seen))
    monkeypatch.setattr(module, "readers", lambda: "edited")
    shared("a", SHAPE, counted(seen))
    assert len(seen) == 12


def test_little_is_not_shared() -> None:
    assert shared("a", (5, 64, 64, 3), image) is None
    assert not folder().exists()


CHILD = """
import os, sys, time
import numpy as np
from ablab.data.shared import shared

def image(index):
    print(index, flush=True)
    if sys.argv[1] == "dies" and index == 3:
        os._exit(9)
    time.sleep(0.02)
    return np.full((256, 256, 3), index, np.uint8)

found = shared("children", (6, 256, 256, 3), image)
assert found.mean((1, 2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
"""


def child(way: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, way], stdout=subprocess.PIPE, text=True)


def test_processes_that_start_together_make_it_once_even_if_the_first_is_killed() -> None:
    dying = child("dies")
    assert dying.communicate()[0].split() == ["0", "1", "2", "3"]
    assert files() == [".lock", ".part"]
    children = [child("lives") for _ in range(3)]
    printed = [one.communicate()[0].split() for one in children]
    assert [one.returncode for one in children] == [0, 0, 0]
    assert sorted(printed) == [[], [], ["0", "1", "2", "3", "4", "5"]]
    assert files() == [".lock", ".u8"]


def test_what_raises_leaves_nothing() -> None:
    def fails(index: int) -> np.ndarray:
        if index == 2:
            raise ValueError("corrupt")
        return image(index)

    with pytest.raises(ValueError, match="corrupt"):
        shared("a", SHAPE, fails)
    assert files() == [".lock"]
    assert shared("a", SHAPE, image) is not None


def test_a_full_disk_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert shared("a", SHAPE, image) is None
    assert files() == [".lock"]
    assert shared("a", SHAPE, image) is not None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert shared("a", SHAPE, image) is None


def test_what_is_there_is_read_though_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    shared("a", SHAPE, image)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", read_only)
    monkeypatch.setattr(Path, "mkdir", read_only)
    assert shared("a", SHAPE, image) is not None
    assert shared("b", SHAPE, image) is None


@pytest.mark.parametrize("scarce", ["memory", "disk", "bound"])
def test_it_takes_a_quarter_of_what_is_free_and_never_more_than_the_bound(
    scarce: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 6 * 256 * 256 * 3
    if scarce == "memory":
        monkeypatch.setattr(machine, "free_memory", lambda: 4.0 * size - 1)
    elif scarce == "disk":
        usage = type("Usage", (), {"free": 4 * size - 1})
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    else:
        monkeypatch.setattr(module, "MOST_BYTES", size - 1)
    assert shared("a", SHAPE, image) is None


def test_a_file_of_another_size_is_replaced() -> None:
    shared("a", SHAPE, image)
    (file,) = folder().glob("*.u8")
    file.write_bytes(b"short")
    found = shared("a", SHAPE, image)
    assert found is not None
    np.testing.assert_array_equal(found[5], image(5))


def test_what_nobody_opened_for_long_goes_but_not_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> set[str]:
        return {path.name for path in folder().glob("*.u8")}

    shared("unused", SHAPE, image)
    (unused,) = names()
    held = shared("in use", SHAPE, image)
    (used,) = names() - {unused}
    gc.collect()
    long_ago = time.time() - (module.MOST_DAYS + 1) * 86400
    for name in (unused, used):
        os.utime(folder() / name, (long_ago, long_ago))
    shared("new", SHAPE, image)
    assert unused not in names()
    assert used in names()
    assert held is not None
    np.testing.assert_array_equal(held[0], image(0))

    assert shared("in use", SHAPE, image) is not None  # opened again: young again
    assert (folder() / used).stat().st_mtime > long_ago + 86400


def test_for_room_the_one_opened_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 6 * 256 * 256 * 3
    made = []
    for name in "abc":
        shared(name, SHAPE, image)
        (new,) = {path.name for path in folder().glob("*.u8")} - set(made)
        made.append(new)
    now = time.time()
    for name, age in zip(made, (10, 30, 20), strict=True):
        os.utime(folder() / name, (now - age, now - age))
    monkeypatch.setattr(module, "MOST_BYTES", 3 * size)
    assert shared("d", SHAPE, image) is not None
    left = {path.name for path in folder().glob("*.u8")}
    assert {made[0], made[2]} < left
    assert made[1] not in left
    assert len(left) == 3


def test_free_memory_is_plausible() -> None:
    assert 2**24 < machine.free_memory() < 2**50
