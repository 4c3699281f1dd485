"""What MLflow holds, read without ablab: the judge of what was written."""

from __future__ import annotations

from typing import Any

import sqlalchemy
import study_record as made
from mlflow import MlflowClient

STUDY = "from_yolov5s_to_lite"


def small() -> dict[str, Any]:
    """Two rungs of two seeds."""
    study = made.ladder()
    study["variants"] = study["variants"][:2]
    study["seeds"] = [0, 1]
    for variant in study["variants"]:
        variant["replicates"] = variant["replicates"][:2]
    return study


def rows(uri: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the database holds, table by table."""
    engine = sqlalchemy.create_engine(uri)
    tables = sqlalchemy.inspect(engine).get_table_names()
    with engine.connect() as connection:
        held = {
            table: sorted(map(tuple, connection.execute(sqlalchemy.text(f"SELECT * FROM {table}"))), key=repr)
            for table in tables
        }
    engine.dispose()
    return held


def contents(uri: str) -> list[Any]:
    """What the current runs say, without the ids that MLflow draws."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(STUDY).experiment_id
    found = []
    for run in client.search_runs([experiment]):
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"}
        if tags.get("ablab.current") == "false":
            continue
        histories = {
            key: sorted((m.timestamp, m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        inputs = [(i.dataset.to_dictionary(), [t.value for t in i.tags]) for i in run.inputs.dataset_inputs]
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        times = (run.info.status, run.info.start_time, run.info.end_time)
        found.append((run.info.run_name, times, run.data.params, tags, run.data.metrics, histories, inputs, files))
    return sorted(found, key=lambda entry: entry[0])
