"""Muon against numpy's SVD, the polynomials applied to singular values, and one kernel at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ablab.training import muon
from ablab.training.muon import Muon, orthogonalise

SHAPES = [(16, 108), (64, 64), (116, 9), (80, 66), (64, 576), (1, 27)]
# Singular values over the largest: even, wide, one or three directions alone, one that all others are noise to.
SPECTRA = {
    "even": lambda n: np.ones(n),
    "wide": lambda n: np.geomspace(1, 1e-3, n),
    "rank 1": lambda n: np.eye(1, n)[0],
    "rank 3": lambda n: (np.arange(n) < 3).astype(float),
    "one large": lambda n: np.r_[1, np.full(n - 1, 0.05)],
    "zero": np.zeros,
}


def polynomials(values: NDArray[np.float64]) -> NDArray[np.float64]:
    for a, b, c in muon.STEPS:
        values = a * values + b * values**3 + c * values**5
    return values


def test_polynomials_level_what_they_promise() -> None:
    lifted = polynomials(np.geomspace(0.004, 1, 100_000))
    assert 0.818 < lifted.min() < lifted.max() < 1.182
    below = polynomials(np.geomspace(1e-9, 0.004, 1000))
    assert 0 < below.min() < below.max() < 1.182
    assert below[0] == pytest.approx(243.5e-9, rel=1e-3)  # the steps' slopes at zero multiplied


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_singular_vectors_stay_and_singular_values_become_level(shape: tuple[int, int], spectrum: str) -> None:
    rng = np.random.default_rng(0)
    n = min(shape)
    values = SPECTRA[spectrum](n)
    u, _ = np.linalg.qr(rng.normal(size=(4, shape[0], n)))
    v, _ = np.linalg.qr(rng.normal(size=(4, shape[1], n)))
    stack = torch.tensor((u * values) @ v.transpose(0, 2, 1), dtype=torch.float32)
    for scale in (1.0, 1e-5):  # what counts is a singular value's share of the norm
        exact = polynomials(values / max(np.linalg.norm(values), 1e-7))
        fp32 = orthogonalise(stack * scale).double().numpy()
        inside = u.transpose(0, 2, 1) @ fp32 @ v
        assert np.abs(inside - np.diag(exact)).max() < 2e-3
        assert np.linalg.norm(fp32) == pytest.approx(np.linalg.norm(inside), rel=1e-4)  # nothing outside

        bf16 = orthogonalise(stack * scale, torch.bfloat16)
        assert bf16.dtype == torch.bfloat16
        found = torch.linalg.svdvals(bf16.double()).numpy()
        assert found.max() < 1.3
        level = np.diagonal(u.transpose(0, 2, 1) @ bf16.double().numpy() @ v, axis1=1, axis2=2)
        lifted = level[:, values > 0.004 * np.linalg.norm(values)]
        assert ((lifted > 0.75) & (lifted < 1.3)).all()


def test_equal_inputs_give_equal_bits() -> None:
    stack = torch.randn(5, 64, 288, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(orthogonalise(stack, dtype), orthogonalise(stack.clone(), dtype))


def test_muon_step_by_hand() -> None:
    kernel = nn.Parameter(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)))
    before = kernel.detach().clone()
    optimizer = Muon([kernel], lr=0.5, momentum=0.9, weight_decay=0.1)
    average = torch.zeros(6, 2)
    for seed in (1, 2):
        gradient = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))
        kernel.grad = gradient.view(6, 2, 1, 1).clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        update = orthogonalise((0.1 * gradient + 0.9 * average)[None])[0]
        before = before * (1 - 0.5 * 0.1) - 0.5 * 3**0.5 * update.view(6, 2, 1, 1)  # 6 rows, 2 columns: sqrt(3)
        torch.testing.assert_close(kernel.detach(), before)


def kernels(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_together_equals_one_by_one_in_out_by_in_k_k(memory_format: torch.memory_format) -> None:
    """A mixture of kernels, in any layout, against each one alone, flattened the way of the paper."""
    starts = kernels((8, 4, 3, 3), (8, 4, 3, 3), (12, 1, 3, 3), (64, 64, 1, 1), (8, 36, 1, 1), (8, 4, 3, 3))
    gradients = [g.to(memory_format=memory_format) for g in kernels(*(s.shape for s in starts))]
    parameters = [nn.Parameter(s.clone(memory_format=memory_format)) for s in starts]
    idle = nn.Parameter(torch.ones(8, 4, 3, 3))  # no gradient: stays
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    Muon([*parameters, idle], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    for start, gradient, parameter in zip(starts, gradients, parameters, strict=True):
        matrix = gradient.reshape(1, len(gradient), -1)
        scale = max(1.0, matrix.shape[1] / matrix.shape[2]) ** 0.5
        alone = start - 0.1 * scale * orthogonalise(matrix)[0].reshape(start.shape)
        torch.testing.assert_close(parameter.detach(), alone, atol=2e-5, rtol=0)
    assert torch.equal(idle, torch.ones(8, 4, 3, 3))


def test_only_bf16_training_rounds_and_only_large_matrices() -> None:
    def updated(shape: tuple[int, ...], precision: str) -> Tensor:
        (start,) = kernels(shape)
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = start
        Muon([parameter], lr=1.0, momentum=0.9, weight_decay=0.0, precision=precision).step()
        return parameter.detach()

    for shape, rounded in (((96, 16, 3, 3), True), ((96, 128, 1, 1), True), ((95, 16, 3, 3), False)):
        bf16 = updated(shape, "bf16")
        assert torch.equal(bf16, bf16.bfloat16().float() if rounded else updated(shape, "fp32"))
        assert torch.equal(updated(shape, "fp32"), updated(shape, "fp16"))


def test_torch_has_no_muon_for_kernels() -> None:
    """The reason for ours; when this fails, look at torch's again."""
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([nn.Parameter(torch.zeros(2, 2, 3, 3))])
