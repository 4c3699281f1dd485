"""The average by hand, buffers included."""

from __future__ import annotations

import torch
from torch import nn

from ablab.training.ema import EMA


def test_average_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)).train()
    ema = EMA(net)
    weight, mean = net[0].weight.item(), 0.0
    for decay, new_weight, new_mean in ((0.2, 3.0, 1.0), (0.9, -1.0, 5.0)):
        with torch.no_grad():
            net[0].weight.fill_(new_weight)
            net[1].running_mean.fill_(new_mean)
            net[1].num_batches_tracked += 1
        ema.update(decay)
        weight = decay * weight + (1 - decay) * new_weight
        mean = decay * mean + (1 - decay) * new_mean
    torch.testing.assert_close(ema.detector[0].weight.item(), weight)
    torch.testing.assert_close(ema.detector[1].running_mean.item(), mean)
    assert ema.detector[1].num_batches_tracked.item() == 2
    assert not ema.detector.training
    assert not any(p.requires_grad for p in ema.detector.parameters())
    assert net[0].weight.requires_grad


def test_sees_what_is_not_finite() -> None:
    net = nn.BatchNorm2d(2)
    ema = EMA(net)
    assert ema.is_finite()
    net.running_var[1] = float("inf")
    ema.update(0.5)
    assert not ema.is_finite()
