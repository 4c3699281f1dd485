"""Who gets which parameters and which rates; Muon's own numbers are in test_muon.py."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from torch import nn

from ablab.errors import UserError
from ablab.models.detector import build as build_detector
from ablab.training import optim, schedule


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
    decayed, *others = optimizer.param_groups
    assert decayed["weight_decay"] == 0.01
    assert {p.ndim for p in decayed["params"]} == {4}
    assert {group["weight_decay"] for group in others} == {0}
    assert {p.ndim for group in others for p in group["params"]} == {1}
    assert sum(len(group["params"]) for group in (decayed, *others)) == len(list(detector.parameters()))


def test_unknown_optimiser_is_named() -> None:
    config = tiny.config()
    with pytest.raises(UserError, match=r"optim\.name=adanw.*Did you mean 'adamw'"):
        optim.build(build_detector(config), config["optim"] | {"name": "adanw"})


def test_yolov5_as_published() -> None:
    """300 epochs of 118,287 images, from the published numbers alone."""
    config = tiny.config("optim=yolov5", "optim.batch=64")
    detector = build_detector(config)
    (sgd,) = optim.build(detector, config["optim"])
    names = {id(p): name for name, p in detector.named_parameters()}
    kernels, norms, biases = ([names[id(p)] for p in group["params"]] for group in sgd.param_groups)
    assert all(name.endswith("bias") for name in biases)
    assert not any(name.endswith("bias") for name in kernels + norms)
    assert [group["weight_decay"] for group in sgd.param_groups] == [0.0005, 0, 0]
    assert all(group["nesterov"] for group in sgd.param_groups)

    per_epoch = 1849  # ceil(118287 / 64)
    plan = schedule.plan(config["optim"], per_epoch, 300)
    warmup, last = 3 * per_epoch, 300 * per_epoch - 1
    assert plan.warmup == warmup

    def rates(step: int) -> list[float]:
        optim.set_rates([sgd], plan.lr(step), plan.warm(step))
        assert len({group["momentum"] for group in sgd.param_groups}) == 1
        return [group["lr"] for group in sgd.param_groups] + [sgd.param_groups[0]["momentum"]]

    def line(step: int) -> float:
        return 0.01 * (1 - 0.99 * step / last)

    assert rates(0) == pytest.approx([0.01 / warmup, 0.01 / warmup, 0.1, 0.8], rel=2e-4)
    half = warmup // 2  # 2773 of 5547, and the rate is already on its way down
    assert rates(half) == pytest.approx([line(half) / 2, line(half) / 2, 0.05 + line(half) / 2, 0.8685], rel=1e-3)
    assert rates(warmup) == pytest.approx([line(warmup)] * 3 + [0.937])
    assert rates(last // 2) == pytest.approx([0.00505] * 3 + [0.937], rel=1e-4)
    assert rates(last) == pytest.approx([0.0001] * 3 + [0.937])
    assert plan.ema_decay(1999) == pytest.approx(0.9999 * 0.632121, rel=1e-6)  # 1 - 1/e after 2,000 steps


def test_optimisers_go_on_from_their_state() -> None:
    """The bits of a second step, whether or not the optimisers were saved, and loaded into new ones, in between."""

    def stepped(optimizers: list[torch.optim.Optimizer], detector: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in detector.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()

    for name in ("few_steps", "yolov5"):
        config = tiny.config(f"optim={name}", "optim.batch=64")
        straight, resumed = build_detector(config), build_detector(config)
        first, second = (optim.build(d, config["optim"], precision="bf16") for d in (straight, resumed))
        stepped(first, straight, 1)
        resumed.load_state_dict(straight.state_dict())
        for optimizer, saved in zip(second, first, strict=True):
            optimizer.load_state_dict(copy.deepcopy(saved.state_dict()))
        stepped(first, straight, 2)
        stepped(second, resumed, 2)
        for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("choice", ["few_steps", "sgd", "adamw"])
def test_rates_scale_the_first_update_of_their_modules(choice: str) -> None:
    config = tiny.config(f"optim={choice}")
    updates = []
    for rates in ({}, {"backbone": 0.5, "backbone.stages.0": 0.25}):
        torch.manual_seed(0)
        detector = build_detector(config)
        before = {name: p.detach().clone() for name, p in detector.named_parameters()}
        optimizers = optim.build(detector, config["optim"], 1.0, rates)
        torch.manual_seed(1)
        for parameter in detector.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        updates.append({name: p.detach() - before[name] for name, p in detector.named_parameters()})
        assert optimizers[0].param_groups[0]["initial_lr"] == max(g["initial_lr"] for g in optimizers[0].param_groups)
        assert sum(len(g["params"]) for o in optimizers for g in o.param_groups) == len(before)
    for name, full in updates[0].items():
        factor = 0.25 if name.startswith("backbone.stages.0.") else 0.5 if name.startswith("backbone.") else 1
        torch.testing.assert_close(updates[1][name], factor * full, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("choice", ["few_steps", "sgd", "adamw"])
def test_only_the_prediction_layers_may_learn(choice: str) -> None:
    config = tiny.config(f"optim={choice}")
    detector = build_detector(config)
    detector.freeze(["stem", "backbone", "neck"])
    optimizers = optim.build(detector, config["optim"], 1.0, {"head": 0.1})
    learning = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    assert learning == {id(p) for p in detector.head.parameters()}


def test_a_rate_for_a_module_there_is_not() -> None:
    config = tiny.config()
    with pytest.raises(UserError, match=r"start\.rates: .* no module 'backbon'\. Did you mean 'backbone'"):
        optim.build(build_detector(config), config["optim"], 1.0, {"backbon": 0.1})
