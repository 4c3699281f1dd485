"""What our recipes measure is what the original networks have: the report on the real tables rests on it."""

from __future__ import annotations

import pytest
import torch
from counted import NETWORKS

from ablab.config import compose, yaml_names
from ablab.models.detector import build, fuse
from ablab.profiling.elements import elements

RECIPES = sorted(NETWORKS.keys() & set(yaml_names("conf/model")))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_count_to_the_unit(recipe: str) -> None:
    original = NETWORKS[recipe]
    with torch.device("meta"):
        net = build(compose([f"model={recipe}", "model.classes=80"]).resolved)
    folded = fuse(net)
    assert [sum(p.numel() for p in one.parameters()) for one in (net, folded)] == [original.learnable, original.folded]
    for form, one in (("trained", net), ("folded", folded)):
        for size, counts in elements(one, original.elements[form]).items():
            known = original.elements[form][size]
            assert {kind: counts[kind] for kind in known} == known, (form, size)
