"""Memory of decoded images: 8 worker processes on one data set against one, in proportional memory (PSS).

python benchmarks/memory.py PATH [imgsz]     PATH: the BCCD data set (data=bccd data.root=PATH)

Each worker opens the training images, reads all of them once, and waits; then its memory is read from
/proc/PID/smaps: the Pss of the shared file's mapping, and by how much its own (anonymous) memory grew meanwhile. The
same is done with each process keeping its own images, as where no file can be written. Also: seconds until the images
are there, made (`first`) and found (`second`), and images a second of the training loader, augmentation included, from
the file against from memory, epochs alternating.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

WORKERS = 8
EPOCHS = 15  # of the loader, each way
MB = 1e6


def main() -> None:
    root, imgsz = sys.argv[1], int([*sys.argv[2:], "320"][0])
    with tempfile.TemporaryDirectory() as cache:
        print(f"BCCD train, {imgsz} px; PSS of decoded images and what they added to each process's own memory")
        for way, folder in (("shared", cache), ("each its own", "/dev/null")):
            sums = {}
            for workers in (1, WORKERS):
                rows = together(workers, folder, root, imgsz)
                sums[workers] = sum(mapped + own for mapped, own, _ in rows)
                seconds = max(took for _, _, took in rows)
                print(f"  {way:13} {workers} worker(s): {sums[workers] / MB:7.1f} MB, there after {seconds:.2f} s")
            print(f"  {way:13} {WORKERS} workers / 1: {sums[WORKERS] / sums[1]:.2f}")
        speed(cache, root, imgsz)


def together(workers: int, cache: str, root: str, imgsz: int) -> list[tuple[float, float, float]]:
    """What each of the workers says while all of them hold their images."""
    context = multiprocessing.get_context("spawn")
    all_there = context.Barrier(workers)
    ends = []
    for _ in range(workers):
        mine, its = context.Pipe()
        process = context.Process(target=work, args=(its, all_there, cache, root, imgsz))
        process.start()
        ends.append((mine, process))
    rows = [mine.recv() for mine, _ in ends]
    for _, process in ends:
        process.join()
    return rows


def work(end: Connection, all_there: Any, cache: str, root: str, imgsz: int) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    data, config = prepared(root)
    before, start = pss()[1], time.perf_counter()
    loader = open_loader(data, imgsz, config)
    for index in range(len(data.samples)):
        loader._fitted[index][0].max()
    took = time.perf_counter() - start
    all_there.wait()
    mapped, own = pss()
    all_there.wait()
    end.send((mapped, max(own - before, 0.0), took))


def prepared(root: str) -> tuple[Any, dict[str, Any]]:
    """The data set, everything imported, and the configuration of its loader, without augmentation."""
    import cv2

    from ablab.config import compose
    from ablab.data import dataset

    cv2.setNumThreads(1)
    config = compose(["data=bccd", f"data.root={root}"]).resolved
    data = dataset.load(config["data"], "train")
    next(open_loader(replace(data, samples=data.samples[:8]), 96, config).epoch(0))  # its buffers are not the images'
    return data, config


def open_loader(data: Any, imgsz: int, config: dict[str, Any], augment: bool = False) -> Any:
    from ablab.data.loader import Loader

    chosen = config["augment"] if augment else None
    return Loader(data, imgsz=imgsz, batch=8, preprocess=config["preprocess"], augment=chosen, seed=0)


def pss() -> tuple[float, float]:
    """Bytes of this process: Pss of mapped files of images, Pss of anonymous memory."""
    mapped = own = 0.0
    image, anonymous = False, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # a mapping's head: range, rights, offset, device, inode, and its file
            image = line.endswith(".u8")
            anonymous = len(words) < 6 or words[5] == "[heap]"
        elif words[0] == "Pss:":
            mapped += 1024 * int(words[1]) * image
            own += 1024 * int(words[1]) * anonymous
    return mapped, own


def speed(cache: str, root: str, imgsz: int) -> None:
    data, config = prepared(root)
    loaders, opened = {}, {}
    for way, folder in (("file", cache), ("memory", "/dev/null")):
        os.environ["XDG_CACHE_HOME"] = folder
        loaders[way] = open_loader(replace(data), imgsz, config, augment=True)
        opened[way] = loaders[way]._fitted._shared is not None
        list(loaders[way].epoch(0))
    assert opened == {"file": True, "memory": False}
    times: dict[str, list[float]] = {"file": [], "memory": []}
    for n in range(EPOCHS):
        for way in sorted(loaders, reverse=bool(n % 2)):
            start = time.perf_counter()
            for _ in loaders[way].epoch(n):
                pass
            times[way].append(time.perf_counter() - start)
    ratios = sorted(a / b for a, b in zip(times["file"], times["memory"], strict=True))
    images = len(loaders["file"].dataset.samples)
    print(f"loader: from the file {images / median(times['file']):.0f} images/s, from memory", end=" ")
    print(f"{images / median(times['memory']):.0f}; seconds an epoch, file / memory: {median(ratios):.3f}", end=" ")
    print(f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {EPOCHS} pairs)")


if __name__ == "__main__":
    main()
