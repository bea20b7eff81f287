"""The blind-spot network of NCIS: the value it gives a pixel depends on that pixel's surroundings, never on the pixel itself.

The architecture is FBI-Net of Byun, Cha and Moon, "FBI-Denoiser: Fast Blind Image Denoiser for Poisson-Gaussian Noise",
CVPR 2021, with the depth that NCIS uses (Cha, Ko, Yoo, Moon, arXiv 2106.11644): 8 layers of 64 filters in place of 17.

Every convolution is *valid* (no padding): an output pixel exists only where its whole receptive field does. A caller pads the
photograph by ``network.margin`` pixels first, by reflection, and gets its own size back. Zero padding in every layer would
instead put garbage along the borders of a network that was trained on the interior of crops.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

from apibench._torch import torch
from apibench.purifiers import grids

nn = torch.nn
Tensor = torch.Tensor

# Which taps of a kernel are used. Sums of these offsets never come back to (0, 0), so the network is blind to the pixel it
# predicts: a ring, then knight's moves, then diagonal steps of three. tests/test_blindspot.py proves it on the gradient.
_RING = ("111", "101", "111")
_KNIGHT = ("01010", "10001", "00100", "10001", "01010")
_DIAGONAL = ("101", "010", "101")

PLAIN, AFFINE = FORMS = ("plain", "affine")


@dataclass(frozen=True)
class BlindSpotSettings:
    """What makes a blind-spot network: ``layers`` masked convolutions (at least 2) of ``filters`` channels each.

    ``form`` is what becomes of them: ``plain`` is NCIS's, a value of the pixel from its surroundings alone; ``affine`` is
    a * z + b, where z is the pixel itself and only a and b come from its surroundings (Byun, Cha, Moon, CVPR 2021, section 3).
    """

    layers: int = 8
    filters: int = 64
    channels: int = 3
    form: str = PLAIN

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"{self.form}: no such form of the output; there are {', '.join(FORMS)}")
        if self.layers < 2 or self.filters < self.channels or self.channels < 1:
            raise ValueError(f"a blind-spot network needs layers >= 2 and filters >= channels >= 1, got {asdict(self)}")

    @property
    def margin(self) -> int:
        """Radius of the receptive field: pixels lost on each side."""
        return 1 + 2 + 3 * (self.layers - 2)


class MaskedConv2d(nn.Module):
    """A valid convolution that uses some taps of its kernel; only those taps are parameters.

    (N, C, H, W) -> (N, C', H - 2r, W - 2r), r the kernel's dilated radius. ``weight`` is (C', C, taps): the compact form is
    what is stored, so a checkpoint cannot hold a centre tap. The dense kernel is scattered when the module runs, which costs
    little beside the convolution, and a dense convolution is faster than gathering the taps.
    """

    def __init__(self, inputs: int, outputs: int, mask: tuple[str, ...], dilation: int = 1) -> None:
        super().__init__()
        self.size = len(mask)
        self.dilation = dilation
        self.radius = dilation * (self.size // 2)
        taps = [i for i, bit in enumerate("".join(mask)) if bit == "1"]
        self.register_buffer("taps", torch.tensor(taps), persistent=False)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, len(taps)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=(2.0 / (inputs * len(taps))) ** 0.5)
        self.grids = grids.find_grids(mask, dilation)
        self.centre = taps.index(self.size**2 // 2) if self.size**2 // 2 in taps else None

    def dense(self) -> Tensor:
        """The kernel as a (C', C, k, k) tensor, zero outside the mask."""
        outputs, inputs, _ = self.weight.shape
        kernel = self.weight.new_zeros(outputs, inputs, self.size**2)
        kernel = kernel.index_copy(2, cast(Tensor, self.taps), self.weight)
        return kernel.view(outputs, inputs, self.size, self.size)

    def forward(self, x: Tensor) -> Tensor:
        if self.grids and x.device.type == "cpu" and not torch.is_grad_enabled():
            return grids.convolve(x, self.weight, self.bias, self.grids)
        return nn.functional.conv2d(x, self.dense(), self.bias, dilation=self.dilation)


class ResidualBlock(nn.Module):
    """Two 1x1 convolutions beside the identity; the sum is halved. (N, C, H, W) -> the same shape."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(filters, filters, 1)
        self.inner = nn.PReLU(filters, init=0.0)
        self.second = nn.Conv2d(filters, filters, 1)
        self.outer = nn.PReLU(filters, init=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.outer((x + self.second(self.inner(self.first(x)))) / 2))


class BlindSpotLayer(nn.Module):
    """One masked convolution of the chain, and the step it adds to the running path.

    ``(chain, path) -> (chain', path')``. Without a path yet (the first layer), the path starts from the chain.
    """

    def __init__(
        self, inputs: int, filters: int, mask: tuple[str, ...], dilation: int = 1, first: bool = False
    ) -> None:
        super().__init__()
        self.conv = MaskedConv2d(inputs, filters, mask, dilation)
        self.activation = nn.PReLU(filters, init=0.0)
        self.join = None if first else nn.PReLU(filters, init=0.0)
        self.residual = ResidualBlock(filters)

    def forward(self, chain: Tensor, path: Tensor | None) -> tuple[Tensor, Tensor]:
        chain = self.activation(self.conv(chain))
        if self.join is None or path is None:
            return chain, self.residual(chain)
        return chain, self.residual(self.join((chain + crop(path, self.conv.radius)) / 2))


class BlindSpotNet(nn.Module):
    """FBI-Net. (N, C, H + 2m, W + 2m) in, (N, C, H, W) out, m = ``margin``; no clamp, float32.

    In the plain form an output pixel does not depend on the input pixel at the same place (exactly: that gradient is zero).
    In the affine form that gradient is a, which itself depends on the surroundings only.
    """

    def __init__(self, settings: BlindSpotSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or BlindSpotSettings()
        self.margin = s.margin
        self.layers = nn.ModuleList(
            [
                BlindSpotLayer(s.channels, s.filters, _RING, first=True),
                BlindSpotLayer(s.filters, s.filters, _KNIGHT),
                *(BlindSpotLayer(s.filters, s.filters, _DIAGONAL, dilation=3) for _ in range(s.layers - 2)),
            ]
        )
        self.activation = nn.PReLU(s.filters, init=0.0)
        self.residual = ResidualBlock(s.filters)
        self.output = nn.Conv2d(s.filters, s.channels * (2 if s.form == AFFINE else 1), 1)
        if s.form == AFFINE:
            self._start_at_the_identity()
        else:
            self._start_at_the_mean_of_the_ring()

    @torch.no_grad()
    def _start_at_the_identity(self) -> None:
        """Start where the untrained network gives every pixel back as it is: a = 1 and b = 0, but for a little noise."""
        self.output.weight.mul_(0.01)
        assert self.output.bias is not None
        self.output.bias.zero_()
        self.output.bias[: self.settings.channels] = 1.0

    @torch.no_grad()
    def _start_at_the_mean_of_the_ring(self) -> None:
        """Start where the untrained network gives each pixel the mean of its eight neighbours, colour by colour.

        The first channels carry that mean, unchanged, through chain and path; the others start at random. From there a short
        training goes on; from random weights alone it would first have to find out what a photograph looks like.
        """
        n = self.settings.channels
        for index, layer in enumerate(self.layers):
            conv = cast(MaskedConv2d, layer.conv)
            conv.weight[:n] = 0.0
            for c in range(n):
                if index == 0:
                    conv.weight[c, c] = 1.0 / conv.weight.shape[2]
                else:
                    conv.weight[c, c, conv.centre] = 1.0
        gain = 0.0
        path = 0.0
        for index, layer in enumerate(self.layers):
            _silence(cast(ResidualBlock, layer.residual), n)
            path = (1.0 if index == 0 else (1.0 + path) / 2) / 2
            gain += path
        _silence(self.residual, n)
        self.output.weight[:] *= 0.1
        for c in range(n):
            self.output.weight[c, :n] = 0.0
            self.output.weight[c, c] = 2.0 * self.settings.layers / gain
        assert self.output.bias is not None
        self.output.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        chain, path = x, None
        total: Tensor | None = None
        for layer in self.layers:
            chain, path = layer(chain, path)
            total = path if total is None else crop(total, cast(BlindSpotLayer, layer).conv.radius) + path
        assert total is not None
        y = cast(Tensor, self.output(self.residual(self.activation(total / len(self.layers)))))
        if self.settings.form == PLAIN:
            return y
        slope, offset = y.chunk(2, dim=1)
        return slope * crop(x, self.margin) + offset


def _silence(block: ResidualBlock, channels: int) -> None:
    """Let the first channels pass a residual block with nothing added to them."""
    block.second.weight[:channels] = 0.0
    assert block.second.bias is not None
    block.second.bias[:channels] = 0.0


def crop(x: Tensor, border: int) -> Tensor:
    """Take ``border`` pixels off each side."""
    return x[..., border:-border, border:-border] if border else x


def reflect(x: Tensor, border: int) -> Tensor:
    """Pad (N, C, H, W) by reflection, also where ``border`` is wider than the picture (it is then reflected repeatedly).

    Where the picture is one pixel wide there is nothing to reflect, and that pixel is repeated.
    """
    return _reflect_axis(_reflect_axis(x, border, -1), border, -2)


def _reflect_axis(x: Tensor, border: int, axis: int) -> Tensor:
    while border > 0:
        step = min(border, x.shape[axis] - 1) or border
        mode = "reflect" if x.shape[axis] > 1 else "replicate"
        x = nn.functional.pad(x, (step, step, 0, 0) if axis == -1 else (0, 0, step, step), mode=mode)
        border -= step
    return x
