"""Muon against numpy's SVD and the textbook iteration; who gets which parameters."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from ablab.errors import UserError
from ablab.models.detector import build as build_detector
from ablab.training import optim


@pytest.mark.parametrize("shape", [(16, 108), (64, 64), (58, 9), (3, 300)])
def test_orthogonalise_keeps_singular_vectors_and_levels_singular_values(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rank = min(shape)
    u, _ = np.linalg.qr(rng.normal(size=(shape[0], rank)))
    v, _ = np.linalg.qr(rng.normal(size=(shape[1], rank)))
    values = np.geomspace(3.0, 0.06, rank)  # from Jordan et al.: five steps lift everything above a hundredth
    result = optim.orthogonalise(torch.tensor(u * values @ v.T, dtype=torch.float32), 5).double().numpy()
    inside = u.T @ result @ v  # diagonal in the same singular vectors
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 1e-3
    norm = np.linalg.norm(values)
    lifted = np.diag(inside)[values / norm > 0.02]
    assert lifted.min() > 0.65
    assert lifted.max() < 1.25


def test_orthogonalise_equals_the_textbook_iteration() -> None:
    x = torch.randn(24, 70, generator=torch.Generator().manual_seed(1))
    direct = x.double() / x.double().norm()
    for _ in range(5):
        gram = direct @ direct.T
        direct = 3.4445 * direct + (-4.7750 * gram + 2.0315 * gram @ gram) @ direct
    torch.testing.assert_close(optim.orthogonalise(x, 5).double(), direct, atol=1e-4, rtol=0)
    torch.testing.assert_close(optim.orthogonalise(x.T, 5).double(), direct.T, atol=1e-4, rtol=0)


def test_muon_step_by_hand() -> None:
    kernel = nn.Parameter(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)))
    before = kernel.detach().clone()
    muon = optim.Muon([kernel], lr=0.5, momentum=0.9, weight_decay=0.1, steps=5)
    average = torch.zeros(6, 2)
    for seed in (1, 2):
        gradient = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))
        kernel.grad = gradient.view(6, 2, 1, 1).clone()
        muon.step()
        average = 0.9 * average + 0.1 * gradient
        update = optim.orthogonalise(0.1 * gradient + 0.9 * average, 5)
        before = before * (1 - 0.5 * 0.1) - 0.5 * 3**0.5 * update.view(6, 2, 1, 1)  # 6 rows, 2 columns: sqrt(3)
        torch.testing.assert_close(kernel.detach(), before)


def test_torch_has_no_muon_for_kernels() -> None:
    """The reason for ours; when this fails, look at torch's again."""
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([nn.Parameter(torch.zeros(2, 2, 3, 3))])


def test_few_steps_gives_muon_the_hidden_kernels_only() -> None:
    config = tiny.config("optim=few_steps")
    detector = build_detector(config)
    muon, adamw = optim.build(detector, config["optim"], lr=0.5)
    names = {id(p): name for name, p in detector.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert by_muon | by_adamw == set(names.values())
    assert not by_muon & by_adamw
    shapes = dict(detector.named_parameters())
    assert all(shapes[name].ndim == 4 for name in by_muon)
    assert {name for name in by_adamw if shapes[name].ndim == 4} == {f"head.convs.{i}.weight" for i in range(3)}
    assert muon.param_groups[0]["initial_lr"] == 0.5 * 0.02
    assert adamw.param_groups[0]["initial_lr"] == 0.5 * 0.002


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_reaches_kernels_alone(name: str) -> None:
    config = tiny.config(f"optim={name}", "optim.weight_decay=0.01")
    detector = build_detector(config)
    (optimizer,) = optim.build(detector, config["optim"])
    decayed, others = optimizer.param_groups
    assert decayed["weight_decay"] == 0.01
    assert {p.ndim for p in decayed["params"]} == {4}
    assert others["weight_decay"] == 0
    assert {p.ndim for p in others["params"]} == {1}


def test_unknown_optimiser_is_named() -> None:
    config = tiny.config()
    with pytest.raises(UserError, match=r"optim\.name=adanw.*Did you mean 'adamw'"):
        optim.build(build_detector(config), config["optim"] | {"name": "adanw"})
