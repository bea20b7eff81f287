"""Purifiers: one contract for all, and each against a reference."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from apibench import purifiers
from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.pixels import to_pixels, to_tensor
from apibench.purifiers.blindspot import BlindSpotNet, BlindSpotSettings
from apibench.purifiers.ncis import NCIS
from apibench.purifiers.smoothing import Smoothing
from tests.conftest import paint


def small_ncis(iterations: int = 2) -> NCIS:
    torch.manual_seed(3)
    return NCIS("ncis", iterations, BlindSpotNet(BlindSpotSettings(layers=3, filters=8)), Smoothing()).eval()


CASES = [
    ("gaussian", lambda n: purifiers.create("gaussian", n)),
    ("gaussian:7,1.5", lambda n: purifiers.create("gaussian:7,1.5", n)),
    ("jpeg:30", lambda n: purifiers.create("jpeg:30", n)),
    ("ncis", small_ncis),
    ("ncis, as shipped", lambda n: purifiers.create("ncis", n)),
]


@pytest.mark.parametrize(("name", "make"), CASES, ids=[name for name, _ in CASES])
@pytest.mark.parametrize("size", [(33, 47), (8, 100), (1, 5)])
def test_the_contract(name: str, make: object, size: tuple[int, int]) -> None:
    x = 0.25 + 0.5 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    purifier = make(1)  # type: ignore[operator]
    with torch.no_grad():
        y = purifier(x)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert y.isfinite().all()
        assert y.min() >= 0
        assert y.max() <= 1
        alone = torch.cat([purifier(x[i : i + 1]) for i in range(2)])
        assert torch.allclose(y, alone, atol=1e-5), "an image does not depend on its batch"
        twice = make(2)(x)  # type: ignore[operator]
        assert torch.allclose(twice, purifier(purifier(x)), atol=2e-2), (
            "two passes are a pass after a pass (but for clamps)"
        )
    if purifier.differentiable:
        z = x.clone().requires_grad_()
        purifier(z).sum().backward()
        assert z.grad is not None
        assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_gaussian_is_scipys(iterations: int) -> None:
    picture = paint(2).astype(np.float64) / 255
    expected = picture
    taps = Smoothing(5, 1.0).taps().numpy()
    for _ in range(iterations):
        for axis in (0, 1):
            expected = ndimage.correlate1d(expected, taps, axis=axis, mode="mirror")
    ours = purifiers.create("gaussian", iterations)(to_tensor(paint(2)))
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - expected).max() < 1e-5


def test_jpeg_is_pillows() -> None:
    buffer = BytesIO()
    Image.fromarray(paint(2)).save(buffer, format="JPEG", quality=50)
    expected = np.asarray(Image.open(buffer))
    assert np.array_equal(to_pixels(purifiers.create("jpeg", 1)(to_tensor(paint(2)))), expected)


def test_ncis_is_smoothing_then_the_network_and_borders_are_padded_by_reflection() -> None:
    purifier = small_ncis(1)
    network, smoothing = purifier.network, purifier.smoothing
    x = to_tensor(paint(4, 40, 50))
    border = network.margin + smoothing.radius
    padded = torch.nn.functional.pad(x, (border,) * 4, mode="reflect")
    with torch.no_grad():
        expected = network(smoothing.valid(padded)).clamp(0, 1)
        assert torch.allclose(purifier(x), expected, atol=1e-6)


def test_tiles_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    purifier, x = small_ncis(1), to_tensor(paint(4, 45, 70))
    whole = purifier(x)
    monkeypatch.setattr("apibench.purifiers.ncis.TILE", 16)
    with torch.no_grad():
        assert torch.allclose(purifier(x), whole.detach(), atol=1e-6)


def test_the_shipped_network_gives_back_a_smoothed_picture_better_than_smoothing_leaves_it() -> None:
    """It was trained for that; the picture here is one no photograph of the training resembles."""
    x = to_tensor(paint(9, 96, 96))
    squares = torch.zeros(1, 3, 96, 96)
    squares[..., 20:70, 30:60] = 1.0
    for picture in (squares * 0.6 + 0.2, x):
        with torch.no_grad():
            ours = (purifiers.create("ncis", 1)(picture) - picture).square().mean()
            smooth = (purifiers.create("gaussian", 1)(picture) - picture).square().mean()
        assert ours < 1.5 * smooth + 1e-3
    assert ours < 0.01


@pytest.mark.parametrize(
    ("name", "iterations", "reason"),
    [
        ("ncsi", 1, "did you mean ncis?"),
        ("", 1, "no such purifier"),
        ("gaussian:4", 1, "odd kernel"),
        ("gaussian:5,0", 1, "sigma above 0"),
        ("gaussian:5,nan", 1, "sigma above 0"),
        ("gaussian:5,inf", 1, "sigma above 0"),
        ("gaussian:x", 1, "gaussian:x"),
        ("jpeg:0", 1, "quality"),
        ("jpeg:high", 1, "jpeg:high"),
        ("gaussian", 0, "iterations must be at least 1"),
        ("ncis:missing.safetensors", 1, "no file missing.safetensors"),
    ],
)
def test_wrong_names_are_named(name: str, iterations: int, reason: str) -> None:
    with pytest.raises(ApibenchError) as caught:
        purifiers.create(name, iterations)
    assert reason in str(caught.value)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    header = '{"format": "blindspot-1", "network": {"layers": 3, "filters": 8}, "smoothing": {}}'
    save_file({"a": torch.zeros(1)}, tmp_path / "shapes.safetensors", metadata={"apibench": header})
    for name, reason in (("text", "not readable"), ("other", "not the weights"), ("shapes", "do not fit")):
        with pytest.raises(ApibenchError) as caught:
            purifiers.create(f"ncis:{tmp_path / name}.safetensors", 1)
        assert reason in str(caught.value)
        assert name in str(caught.value)


def test_names() -> None:
    assert purifiers.names() == ["gaussian", "jpeg", "ncis"]
