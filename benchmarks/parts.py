"""Every stem × backbone × neck × head, small: it builds, counts, takes two training steps and decodes, or is refused.

python benchmarks/parts.py [part/parts]     part/parts: such as 2/4, the second quarter of the combinations

At 64 px, two classes and an eighth of the width (the libraries' backbones at theirs). Prints how many combinations
there are of each outcome and the seconds they took; ends with 1 and names them if any is neither whole nor refused with
both parts named. The tests take those in which every pair of parts meets; these are all of them.
"""

from __future__ import annotations

import itertools
import re
import statistics
import sys
import time
from collections import Counter
from typing import Any

import torch

from ablab.config import compose, groups, parse
from ablab.errors import UserError
from ablab.models.detector import GROUPS, Detector, build, fuse
from ablab.profiling.elements import elements
from ablab.training import optim

SMALL = ["model.width=0.125", "model.classes=2"]
SIZE = 64
STEPS = 2
TARGETS = torch.tensor([[0, 1, 4.0, 6, 30, 40], [1, 0, 20.0, 10, 60, 63]])
REFUSED = re.compile(r"(stem|backbone|neck|head) \w+ does not fit (stem|backbone|neck) \w+: ")


def main() -> None:
    torch.set_num_threads(1)
    part, parts = map(int, (sys.argv[1] if len(sys.argv) > 1 else "1/1").split("/"))
    choices = {group: groups()[group] for group in GROUPS}
    resolved = {
        (group, name): compose(parse([*SMALL, f"{group}={name}"])).resolved[group]
        for group, names in choices.items()
        for name in names
    }
    recipe = compose([]).resolved["optim"]
    outcomes: Counter[str] = Counter()
    seconds, wrong = [], []
    for names in itertools.islice(itertools.product(*choices.values()), part - 1, None, parts):
        torch.manual_seed(0)
        started = time.perf_counter()
        try:
            outcome = whole({group: resolved[group, name] for group, name in zip(GROUPS, names, strict=True)}, recipe)
            seconds.append(time.perf_counter() - started)
        except UserError as error:
            named = REFUSED.match(str(error))
            outcome = f"refused: {named[1]} does not fit {named[2]}" if named else f"wrong: {error}"
        except Exception as error:  # whatever a combination that nobody tried raises
            outcome = f"wrong: {type(error).__name__}: {error}"
        outcomes[outcome.partition(": ")[0] if outcome.startswith("wrong") else outcome] += 1
        if outcome.startswith("wrong"):
            wrong.append(f"{'-'.join(names)}: {outcome}")
            print(wrong[-1], flush=True)
    print(f"{' × '.join(f'{len(names)} {group}s' for group, names in choices.items())}, part {part} of {parts}")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6,} {outcome}")
    print(f"seconds of a whole one: median {statistics.median(seconds):.2f}, most {max(seconds):.2f}")
    sys.exit(bool(wrong))


def whole(config: dict[str, Any], recipe: dict[str, Any]) -> str:
    """Take one combination all the way; raises AssertionError for what is not as it should be."""
    detector = build(config)
    counted = elements(detector, [SIZE])[SIZE]
    assert counted["conv_macs"] > 0, "no convolution was counted"
    assert elements(fuse(detector), [SIZE])[SIZE]["conv_macs"] > 0, "no convolution was counted as it is deployed"
    train(detector, recipe)
    with torch.no_grad():
        boxes, scores = detector.eval().decode(detector(torch.rand(2, 3, SIZE, SIZE)))
    assert (*boxes.shape[:2], 2) == scores.shape, f"boxes {tuple(boxes.shape)} but scores {tuple(scores.shape)}"
    assert boxes.isfinite().all(), "a box is not finite"
    assert 0 <= scores.min() <= scores.max() <= 1, "a score is beyond 0 and 1"
    return "whole"


def train(detector: Detector, recipe: dict[str, Any]) -> None:
    optimizers = optim.build(detector, recipe)
    before = [p.detach().clone() for p in detector.parameters()]
    for step in range(STEPS):
        losses = detector.loss(detector(torch.rand(2, 3, SIZE, SIZE)), TARGETS, step / STEPS)
        loss = sum(losses.values(), start=torch.zeros(()))
        assert loss.isfinite(), f"the loss of step {step + 1} is not finite"
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    named = zip(detector.named_parameters(), before, strict=True)
    same = [name for (name, now), old in named if not name.startswith("head.") and torch.equal(now, old)]
    assert not same, f"not trained: {', '.join(same)}"  # of a head, levels that no truth chose may stay as they were


if __name__ == "__main__":
    main()
