"""What chance decides about every image of an epoch.

Every augmentation has the keys p, its probability for an image, and until, the share of the phase's epochs after which
it is off; and it has a generator of its own, from (seed, epoch, augmentation), which gives a row of numbers for every
image, needed or not. So an image's draws depend on its place in the dataset alone, not on what was loaded before or by
which thread, and switching one augmentation off leaves those of the others as they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np

AUGMENT = 1  # purpose of the generators, beside the loader's ORDER
# How many numbers each takes. The place of a name seeds its generator: append only.
NUMBERS = {"mosaic": 6, "affine": 7, "hsv": 4, "flip_lr": 1, "flip_ud": 1, "mixup": 3, "copy_paste": 3}


class Draws:
    """The draws of one epoch.

    config: conf/augment. progress: share of the phase's epochs that are done, in [0, 1]; an augmentation is off from
    its `until` on. images: size of the dataset.
    """

    def __init__(self, config: dict[str, Any], seed: int, epoch: int, progress: float, images: int) -> None:
        self.config, self.images = config, images
        self._rows = {
            name: np.random.default_rng([seed, AUGMENT, epoch, place]).random((images, 2, count), np.float32)
            for place, (name, count) in enumerate(NUMBERS.items())
            if config[name]["p"] > 0 and progress < config[name]["until"]
        }

    def of(self, name: str, index: int, second: bool = False) -> list[float] | None:
        """What was drawn for image `index`, uniform in [0, 1), the decision on `p` aside; None if it is not augmented.

        second: of the other one of two independent draws, for the image that mixup adds to this one.
        """
        if name not in self._rows:
            return None
        decision, *rest = self._rows[name][index, int(second)].tolist()
        return rest if decision < self.config[name]["p"] else None
