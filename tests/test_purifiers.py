"""Purifiers: one contract for all, and each against a reference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from apibench import purifiers
from apibench._torch import torch
from apibench.pixels import to_pixels, to_tensor
from apibench.purifiers import blindspot, grids
from apibench.purifiers.blindspot import BlindSpotNet, BlindSpotSettings
from apibench.purifiers.classical import Bilateral, Median
from apibench.purifiers.contract import Purifier
from apibench.purifiers.ncis import NCIS
from apibench.purifiers.smoothing import Smoothing
from tests.conftest import paint

Make = Callable[[int], Purifier]


def small(name: str = "ncis", smoothing: Smoothing | None = None) -> Callable[[int], NCIS]:
    def make(iterations: int) -> NCIS:
        torch.manual_seed(3)
        network = BlindSpotNet(BlindSpotSettings(layers=3, filters=8))
        return NCIS(name, iterations, network, smoothing or Smoothing()).eval()

    return make


def named(name: str) -> Make:
    return lambda iterations: purifiers.create(name, iterations)


NAMES = [
    "gaussian", "gaussian:7,1.5", "jpeg:30", "bits", "median", "median:5", "bilateral", "tv", "nlm", "wavelet", "crop-resize",
    "resize-pad",
]  # fmt: skip
CASES: dict[str, Make] = {
    **{name: named(name) for name in NAMES},
    "ncis": small(),
    "bsn": small("bsn", Smoothing(1)),
    "jpeg:50+gaussian/2+resize-pad": lambda _: purifiers.create("jpeg:50+gaussian/2+resize-pad"),
}
every = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


def noise(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_purifier_there_is_has_a_case() -> None:
    cases = {name.partition(":")[0] for name in CASES}
    assert {*purifiers.names()} - {"ncis-affine", "ncis-noise"} <= cases


@every
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 5), (7, 1), (33, 20)])
def test_shape_and_range_whatever_the_size(make: Make, size: tuple[int, int]) -> None:
    purifier = make(1)
    for x in (noise(2, 3, *size), noise(1, 3, *size).round(), noise(1, 3, *size, dtype=torch.float64)):
        with torch.inference_mode():
            y = purifier.to(x.dtype)(x)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert y.isfinite().all()
        assert y.min() >= 0
        assert y.max() <= 1
    assert purifier.float()(noise(0, 3, *size)).shape == (0, 3, *size)


@every
def test_an_image_does_not_depend_on_its_batch_or_memory_layout(make: Make) -> None:
    purifier, x = make(1), noise(5, 3, 64, 70)  # large enough for kornia to choose another way for the batch

    def result(x: torch.Tensor) -> torch.Tensor:
        purifier.seed(0, "image")
        with torch.no_grad():
            y: torch.Tensor = purifier(x)
        return y

    together = result(x)
    alone = torch.cat([result(x[i : i + 1]) for i in range(len(x))])
    if isinstance(purifier, Median | Bilateral):
        assert torch.equal(together, alone), "to the bit, since a choice between two ways would be more than rounding"
    assert torch.allclose(together, alone, atol=2e-6)
    assert torch.allclose(together, result(x.contiguous(memory_format=torch.channels_last)), atol=2e-6)
    assert torch.equal(together, result(x)), "the same again"
    assert torch.equal(x, noise(5, 3, 64, 70)), "what is given stays as it is"


@every
def test_a_constant_picture_stays_one(make: Make) -> None:
    purifier = make(1)
    if purifier.random:
        pytest.skip("it pads with black")
    x = torch.tensor([0.2, 0.6, 1.0]).view(1, 3, 1, 1).expand(1, 3, 40, 30)
    with torch.no_grad():
        y = purifier(x)
    assert (y - x).abs().max() < (0.05 if isinstance(purifier, NCIS) or "jpeg" in purifier.name else 0.04)
    assert y.std(dim=(2, 3)).max() < 1e-3


@every
def test_passes_are_those_of_forward_and_go_on_from_before_the_clamp(make: Make) -> None:
    counts = [1, 3]
    first = make(1)
    if "+" in first.name:
        counts = [1]
    x = noise(2, 3, 20, 24)
    first.seed(4, "image")
    with torch.no_grad():
        for count, y in first.passes(x, counts):
            alone = make(count)
            alone.seed(4, "image")
            assert torch.equal(y, alone(x)), count
        for wrong in ([0], [2, 2], [3, 1]):
            with pytest.raises(ValueError, match="pass"):
                list(first.passes(x, wrong))


def test_passes_do_not_clamp_in_between() -> None:
    class Mirror(Purifier):
        def once(self, x: torch.Tensor) -> torch.Tensor:
            return 1.6 - x

    values = [float(y) for _, y in Mirror("mirror", 1).passes(torch.tensor(0.2), [1, 2])]
    assert values == pytest.approx([1.0, 0.2]), "the first is 1.4 before the clamp"
    assert float(Mirror("mirror", 2)(torch.tensor(0.2))) == pytest.approx(0.2)


@every
def test_only_a_random_one_draws_and_by_seed_and_image(make: Make) -> None:
    purifier, x = make(1), noise(1, 3, 60, 90)

    def draws(seed: int, identity: str) -> list[bytes]:
        purifier.seed(seed, identity)
        with torch.no_grad():
            return [purifier(x).numpy().tobytes() for _ in range(3)]

    assert draws(1, "a") == draws(1, "a")
    several = {*draws(1, "a"), *draws(2, "a"), *draws(1, "b")}
    assert len(several) == (9 if purifier.random else 1)
    unseeded = [make(1)(x) for _ in range(3)]
    assert all(torch.equal(unseeded[0], y) for y in unseeded) == (not purifier.random)


def test_two_random_parts_draw_for_themselves() -> None:
    chain = purifiers.create("resize-pad+resize-pad")
    chain.seed(0, "image")
    first, second = (part.generator().initial_seed() for part in chain.parts)  # type: ignore[attr-defined]
    assert first != second


@every
def test_through_has_the_value_of_forward_and_a_gradient(make: Make) -> None:
    purifier = make(1)
    x = (0.25 + 0.5 * noise(1, 3, 6, 7, dtype=torch.float64)).requires_grad_()
    weights = noise(1, 3, 6, 7, seed=1, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        purifier.double().seed(0, "image")
        return (weights * purifier.through(x)).sum()

    (gradient,) = torch.autograd.grad(loss(x), x)
    if not purifier.differentiable and "+" not in purifier.name:
        assert torch.equal(gradient, weights), "BPDA: the identity's"
        assert torch.equal(purifier.through(x), purifier(x.detach()))
        return
    if "+" in purifier.name:
        purifier.parts[0].once = lambda x: x  # type: ignore[attr-defined] # JPEG's steps have no gradient to compare with
    direction = noise(1, 3, 6, 7, seed=2, dtype=torch.float64) - 0.5
    with torch.no_grad():
        expected = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    assert expected.abs() > 1e-3
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-4)


def test_a_chain_goes_through_each_part_in_its_own_way() -> None:
    chain, x = purifiers.create("jpeg:50+gaussian/3"), noise(1, 3, 20, 20).requires_grad_()
    assert not chain.differentiable
    weights = noise(1, 3, 20, 20, seed=1)
    (ours,) = torch.autograd.grad((weights * chain.through(x)).sum(), x)
    (smoothing,) = torch.autograd.grad((weights * purifiers.create("gaussian", 3)(x)).sum(), x)
    assert torch.allclose(ours, smoothing, atol=1e-6), "the identity's, then smoothing's own"


def test_a_chain_is_one_after_the_other() -> None:
    x = to_tensor(paint(3))
    expected = purifiers.create("gaussian", 2)(purifiers.create("jpeg:40")(x))
    chain = purifiers.create("jpeg:40+gaussian/2")
    assert torch.equal(chain(x), expected)
    assert (chain.variant, chain.name) == ("jpeg:40/1+gaussian/2",) * 2
    assert purifiers.create(chain.name).name == chain.name, "its name makes it again"
    assert chain.libraries == ("pillow",)


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


def test_what_gaussian_keeps_from_a_call_without_gradients_serves_one_with_them() -> None:
    x = noise(1, 3, 29, 31)
    with torch.inference_mode():
        purifiers.create("gaussian:3,0.8", 4)(x)
    x.requires_grad_()
    purifiers.create("gaussian:3,0.8", 4)(x).sum().backward()
    assert x.grad is not None


def test_jpeg_is_pillows() -> None:
    buffer = BytesIO()
    Image.fromarray(paint(2)).save(buffer, format="JPEG", quality=50)
    expected = np.asarray(Image.open(buffer))
    assert np.array_equal(to_pixels(purifiers.create("jpeg", 1)(to_tensor(paint(2)))), expected)


def test_the_filters_are_the_libraries_own() -> None:
    """On colour pictures, called as their manuals say; the window filters also where the window does not fit."""
    from kornia import filters
    from skimage import restoration

    x = noise(1, 3, 30, 34)
    pixels = x[0].permute(1, 2, 0).numpy()
    for name, expected in {
        "median:5": filters.median_blur(x, 5),
        "bilateral:7,0.3,2": filters.bilateral_blur(x, 7, 0.3, (2.0, 2.0)),
    }.items():
        assert torch.allclose(purifiers.create(name)(x), expected, atol=1e-6), name
    for name, array in {
        "tv:0.2": restoration.denoise_tv_chambolle(pixels, weight=0.2, channel_axis=-1),
        "nlm:0.3": restoration.denoise_nl_means(pixels, 3, 5, 0.3, channel_axis=-1),
        "wavelet:0.1": restoration.denoise_wavelet(
            pixels, 0.1, method="BayesShrink", convert2ycbcr=True, channel_axis=-1
        ),
    }.items():
        assert np.abs(purifiers.create(name)(x)[0].permute(1, 2, 0).numpy() - np.clip(array, 0, 1)).max() < 1e-6, name


def test_small_windows_reflect_as_large_pictures_do() -> None:
    """scipy reflects as often as it takes; kornia alone refuses a picture smaller than its window."""
    x = noise(1, 3, 2, 3)
    expected = ndimage.median_filter(x[0].numpy(), size=(1, 9, 9), mode="mirror")
    assert np.array_equal(purifiers.create("median:9")(x)[0].numpy(), expected)


def test_bits_crops_and_pads() -> None:
    x = torch.linspace(0, 1, 256).view(1, 1, 1, 256).expand(1, 3, 2, 256)
    levels = purifiers.create("bits:3")(x).unique()
    assert torch.allclose(levels, torch.arange(8) / 7)
    assert torch.equal(purifiers.create("bits:8")(to_tensor(paint(1))), to_tensor(paint(1)))

    framed = torch.zeros(1, 3, 40, 20)
    framed[..., 10:30, 5:15] = 1.0
    assert (purifiers.create("crop-resize:0.5")(framed) == 1).all()

    pad = purifiers.create("resize-pad:0.5")
    pad.seed(3, "image")
    areas = [float(pad(torch.ones(1, 3, 40, 60))[0, 0].mean()) for _ in range(40)]
    assert 0.25 <= min(areas) < 0.4
    assert 0.7 < max(areas) <= 1.0
    assert torch.equal(purifiers.create("resize-pad:1")(framed), framed)


def test_ncis_is_smoothing_then_the_network_and_borders_are_padded_by_reflection() -> None:
    purifier = small()(1)
    network, smoothing = purifier.network, purifier.smoothing
    x = to_tensor(paint(4, 40, 50))
    border = network.margin + smoothing.radius
    padded = torch.nn.functional.pad(x, (border,) * 4, mode="reflect")
    with torch.no_grad():
        expected = network(smoothing.valid(padded)).clamp(0, 1)
        assert torch.allclose(purifier(x), expected, atol=1e-6)


def test_tiles_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    purifier, x = small()(1), to_tensor(paint(4, 45, 70))
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


@pytest.mark.parametrize(("index", "pieces"), [(0, 0), (1, 3), (2, 2)])
def test_a_masked_kernel_in_grids_is_the_dense_one(index: int, pieces: int) -> None:
    """The ring is better dense; the knight's moves are two grids and the centre, the diagonals one and the centre."""
    mask = [blindspot._RING, blindspot._KNIGHT, blindspot._DIAGONAL][index]
    conv = blindspot.MaskedConv2d(4, 6, mask, dilation=3 if index == 2 else 1)
    found = grids.find_grids(mask, conv.dilation)
    assert len(found) == pieces
    if found:
        assert sorted(tap for grid in found for tap in grid.taps) == list(range(conv.weight.shape[2]))
        x = noise(2, 4, 17, 19)
        with torch.no_grad():
            dense = torch.nn.functional.conv2d(x, conv.dense(), conv.bias, dilation=conv.dilation)
            assert torch.allclose(grids.convolve(x, conv.weight, conv.bias, found), dense, atol=1e-5)


def test_no_grids_where_a_mask_is_not_symmetric() -> None:
    assert grids.find_grids(("100", "000", "000")) == ()
    assert len(grids.find_grids(("101", "000", "101"))) == 1


def test_settings_tell_two_purifiers_apart() -> None:
    purifier = small()(2)
    other = copy.deepcopy(purifier)
    assert purifier.settings() == other.settings()
    with torch.no_grad():
        next(other.network.parameters()).view(-1)[0] += 1e-3
    assert purifier.settings() != other.settings()
    names = ["jpeg:50+gaussian", "gaussian+jpeg:50", "jpeg:50+gaussian/2", "jpeg:51+gaussian", "gaussian", "jpeg:50"]
    found = [str(purifiers.create(name).settings()) for name in names]
    assert len({*found}) == len(names)
    assert purifiers.create("jpeg:50").settings() == {"purifier": "jpeg:50", "iterations": 1}


def test_they_drop_into_torchvision_and_foolbox() -> None:
    import foolbox
    from torchvision.transforms import v2

    picture = Image.fromarray(paint(1, 40, 50))
    steps = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        lambda x: x[None],
        purifiers.create("median"),
        v2.Resize(32),
    ]
    assert v2.Compose(steps)(picture).shape[0] == 1

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.Flatten(), torch.nn.Linear(4 * 12 * 12, 5))
    model = foolbox.PyTorchModel(torch.nn.Sequential(purifiers.create("gaussian", 2), network).eval(), bounds=(0, 1))
    x = noise(2, 3, 16, 16)
    labels = model(x).argmax(1)
    attack = foolbox.attacks.LinfPGD(steps=10)
    _, adversarial, success = attack(model, x, labels, epsilons=0.3)
    assert success.any()
    assert (adversarial - x).abs().max() <= 0.3 + 1e-6
