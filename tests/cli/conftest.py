"""Working folders in several states, and a disk that a test may fill."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from working_folder import STUDY, Folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study `tiny` was swept: store, record and report."""
    folder = Folder(tmp_path_factory.mktemp("trained"))
    folder.write("sweeps/tiny.yaml", STUDY)
    result = folder.run("sweep", "tiny")
    assert result.code == 0, result.err
    return folder.path


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes more than a second."""
    from ablab.tracking import connect

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}", create=True)
    return file


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder with nothing but the study."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    folder = Folder(tmp_path)
    folder.write("sweeps/tiny.yaml", STUDY)
    return folder


@pytest.fixture
def folder(bare: Folder, database: Path) -> Folder:
    """A folder with the study and an empty record."""
    bare.write(".ablab/mlflow.db", database.read_bytes())
    return bare


@pytest.fixture
def finished(bare: Folder, trained: Path) -> Folder:
    """A folder in which the study was swept."""
    shutil.copytree(trained, bare.path, dirs_exist_ok=True)
    return bare


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MB, which a test may fill or remount."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a file system cannot be mounted here: {error.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # MLflow keeps its database open
