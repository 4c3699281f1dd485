"""Images a second of the whole training loop against the bare step, alternating epoch by epoch; one thread.

    python benchmarks/training.py [overrides]     e.g. model=yolov5_lite_2021 schedule.imgsz=640 optim=sgd

Whole: loader with augmentation, input, forward, loss, backward, clip, optimisers, EMA, checkpoint. Bare: forward,
loss, backward, SGD on one batch that lies ready.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ablab.compute import prepare
from ablab.config import compose
from ablab.data import dataset
from ablab.data.loader import Loader
from ablab.machine import settle
from ablab.models.detector import build
from ablab.training import loop

EPOCHS = 9  # the first warms up and is not counted


def main() -> None:
    base = ["model.classes=10", "data=scenes", "data.size=320", "data.train=64", "data.objects=[4,16]"]
    config = compose([*base, *sys.argv[1:]]).resolved
    config["engine"] = settle(config["engine"] | {"threads": 1})
    phase = config["schedule"]["phases"][0] | {"epochs": EPOCHS, "start_epoch": 0}
    compute = prepare(config["engine"])
    torch.manual_seed(0)
    loader = Loader(
        dataset.load(config["data"], "train"),
        imgsz=phase["imgsz"],
        batch=config["optim"]["batch"],
        preprocess=config["preprocess"],
        augment=config["augment"],
        seed=0,
    )
    bare = build(config)
    compute.place(bare)
    sgd = torch.optim.SGD(bare.parameters(), lr=1e-5, fused=True)
    batch = next(loader.epoch(0))
    x = compute.network_input(batch.images, config["preprocess"])

    def bare_epoch() -> float:
        start = time.perf_counter()
        for _ in range(len(loader)):
            with compute.autocast():
                raw = bare(x)
            sgd.zero_grad()
            sum(bare.loss(raw, batch.targets, 0.0).values(), start=torch.zeros(())).backward()
            sgd.step()
        return time.perf_counter() - start

    whole_times: list[float] = []
    bare_times: list[float] = []
    started = time.perf_counter()

    def after_epoch(event: dict[str, Any]) -> None:
        nonlocal started
        whole_times.append(time.perf_counter() - started)
        bare_times.append(bare_epoch())
        started = time.perf_counter()

    with tempfile.TemporaryDirectory() as work:
        loop.train(
            build(config),
            loader,
            lambda *_: {},
            phase=phase,
            optim_config=config["optim"],
            preprocess=config["preprocess"],
            engine=config["engine"],
            seed=0,
            work=Path(work),
            emit=after_epoch,
        )
    images = len(loader.dataset.samples)
    whole, step = median(whole_times[1:]), median(bare_times[1:])
    name = f"{config['model']['name']} {phase['imgsz']} px {config['optim']['name']} {config['engine']['precision']}"
    print(f"{name}: whole loop {images / whole:.1f} images/s, bare SGD step {images / step:.1f}")
    print(f"the loop takes {whole / step:.2f} times the bare step's time (median of {EPOCHS - 1} alternating epochs)")


if __name__ == "__main__":
    main()
