"""Training speed on one thread: the whole loop against bare steps, in turn; and the peak memory at 640 px.

    python benchmarks/training.py [overrides]     e.g. model=v5lite_s schedule.imgsz=640 optim.batch=8

- whole: what `ablab train` does in an epoch: loader with augmentation, input, forward, loss, backward, clip,
  optimisers, EMA, checkpoint.
- on ready batches: the same with batches of random numbers in place of the loader.
- bare: forward, backward of a mean over the predictions, update; random input that lies ready; no loss of a detector.
- fp32: bare, contiguous, with SGD: the most that a trainer without bf16 and channels-last can reach.

Each round measures every side once, in this order; ratios are medians over rounds, with their range.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ablab.compute import prepare
from ablab.config import compose
from ablab.data import dataset
from ablab.data.loader import Batch, Loader
from ablab.machine import settle
from ablab.models.detector import build
from ablab.training import loop, optim

ROUNDS = 7
IMAGES = 208  # of an epoch: about as many as the blood cells have
BASE = [
    *("model=yolov5n", "model.classes=3", "schedule.imgsz=320", "optim.batch=16"),
    *("data=scenes", f"data.train={IMAGES}", "data.digits=[0,1,2]", "data.objects=[4,16]", "augment=light"),
]

Side = Callable[[], float]  # images a second, of one epoch


class Ready:
    """As many batches of random numbers as the loader has, made beforehand."""

    def __init__(self, loader: Loader) -> None:
        self._batches = [
            batch._replace(images=torch.randint_like(batch.images, 256)) for batch in loader.epoch(0, augment=False)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, *_: Any, **__: Any) -> Iterator[Batch]:
        return iter(self._batches)


def main() -> None:
    few = configured("optim=few_steps")
    sgd = configured("optim=sgd")
    loader = made(few)
    sides: dict[str, Side] = {
        "few_steps whole": lambda: whole(few, loader),
        "few_steps on ready batches": lambda: whole(few, Ready(loader)),
        "few_steps bare": bare(few),
        "sgd whole": lambda: whole(sgd, loader),
        "sgd bare": bare(sgd),
        "sgd bare fp32": bare(sgd | {"engine": sgd["engine"] | {"precision": "fp32"}}, channels_last=False),
    }
    for side in sides.values():
        side()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            rates[name].append(side())

    phase, precision = few["schedule"]["phases"][0], few["engine"]["precision"]
    print(f"{few['model']['name']}, {phase['imgsz']} px, batch {few['optim']['batch']}, {precision}, one thread")
    for name, values in rates.items():
        print(f"  {name:28} {median(values):7.1f} images/s")
    for words, above, below in (
        ("few_steps: whole ÷ bare", "few_steps whole", "few_steps bare"),
        ("few_steps: whole ÷ on ready batches", "few_steps whole", "few_steps on ready batches"),
        ("sgd: whole ÷ bare", "sgd whole", "sgd bare"),
        ("sgd: whole ÷ fp32 bare", "sgd whole", "sgd bare fp32"),
        ("time of a step, few_steps ÷ sgd, whole", "sgd whole", "few_steps whole"),
        ("time of a step, few_steps ÷ sgd, bare", "sgd bare", "few_steps bare"),
    ):
        ratios = [a / b for a, b in zip(rates[above], rates[below], strict=True)]
        print(f"  {words:40} {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print(f"peak memory of this training at 640 px: {peak_memory():.2f} GB")


def configured(*overrides: str) -> dict[str, Any]:
    size = next((word for word in sys.argv[1:] if word.startswith("schedule.imgsz=")), "schedule.imgsz=320")
    same = f"data.size={size.partition('=')[2]}"
    config = compose([*overrides, *BASE, same, *sys.argv[1:]]).resolved
    return config | {"engine": settle(config["engine"] | {"threads": 1})}


def made(config: dict[str, Any]) -> Loader:
    phase = config["schedule"]["phases"][0]
    return Loader(
        dataset.load(config["data"], "train"),
        imgsz=phase["imgsz"],
        batch=config["optim"]["batch"],
        preprocess=config["preprocess"],
        augment=config["augment"],
        seed=0,
    )


def whole(config: dict[str, Any], batches: Loader | Ready, epochs: int = 2) -> float:
    """Images a second of the last epoch, from one checkpoint to the next."""
    ends: list[float] = []

    def emit(event: dict[str, Any]) -> None:
        if "message" in event:
            ends.append(time.perf_counter())

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as work:
        loop.train(
            build(config),
            batches,
            lambda *_: {},
            phase=config["schedule"]["phases"][0] | {"epochs": epochs, "start_epoch": 0},
            optim_config=config["optim"],
            preprocess=config["preprocess"],
            engine=config["engine"],
            seed=0,
            work=Path(work),
            emit=emit,
        )
    return len(batches) * config["optim"]["batch"] / (ends[-1] - ends[-2])


def bare(config: dict[str, Any], *, channels_last: bool = True) -> Side:
    """Steps of a network that learns nothing, as many as an epoch of images has."""
    compute = prepare(config["engine"])
    size, batch = config["schedule"]["phases"][0]["imgsz"], config["optim"]["batch"]
    torch.manual_seed(0)
    network = build(config).train()
    x = torch.rand(batch, 3, size, size)
    if channels_last:
        compute.place(network)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizers = optim.build(network, config["optim"], precision=compute.precision)
    optim.set_rates(optimizers, 1e-6, warm=1.0)

    def epoch() -> float:
        start = time.perf_counter()
        for _ in range(IMAGES // batch):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            with compute.autocast():
                raw = network(x)
            sum(level.float().mean() for level in raw).backward()
            for optimizer in optimizers:
                optimizer.step()
        return IMAGES // batch * batch / (time.perf_counter() - start)

    return epoch


def peak_memory() -> float:
    """GB of a fresh process that trains one epoch of six batches at 640 px; Python and torch are in it."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_train_large, args=(send, sys.argv[1:]))
    process.start()
    try:
        return float(receive.recv())
    finally:
        process.join()


def _train_large(send: Any, words: list[str]) -> None:
    sys.argv = ["", *words, "schedule.imgsz=640", "data.train=96"]
    config = configured("optim=few_steps")
    whole(config, made(config))
    send.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


if __name__ == "__main__":
    main()
