"""One small study, recorded once: rendering only reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import study_record as made

from ablab import tracking


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an MLflow database with the ladder of three rungs and three seeds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('record') / 'mlflow.db'}"
    tracking.record(made.ladder(), uri)
    return uri


@pytest.fixture(scope="session")
def report(recorded: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ladder's rendered report."""
    from ablab.report.render import render

    return render(recorded, made.ladder()["name"], tmp_path_factory.mktemp("report")).parent
