"""One job of Hydra's multirun: train and evaluate one configuration in a store of its own, recording nothing."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ablab.config import parse, shipped


@hydra.main(version_base="1.3", config_path=str(shipped("conf").resolve()), config_name="config")
def job(_: DictConfig) -> None:
    from ablab.driver import plan_training
    from ablab.engine.execute import execute
    from ablab.engine.inline import Inline
    from ablab.sweep import store_of

    told = HydraConfig.get()
    plan = plan_training(parse([*told.overrides.task, f"store=jobs/{told.job.num}"]))
    store = store_of(plan)
    outcome = execute(plan, store, lambda *_: None, lambda: Inline(store))
    if outcome.failures:
        raise SystemExit(next(iter(outcome.failures.values())))


if __name__ == "__main__":
    job()
