"""TI: the gradient, smoothed, so that the noise does not hang on where exactly one network's features lie."""

from __future__ import annotations

from apibench._torch import torch
from apibench.attacks.transforms import InputTransform

Tensor = torch.Tensor


class TranslationInvariance(InputTransform):
    """TI: convolve the gradient with a Gaussian (Dong et al., CVPR 2019, arXiv 1904.02884).

    As networks hardly mind where a thing lies, this is about the mean gradient over shifted copies of the image; it costs no
    gradient more. ``size``: taps of the kernel a side, odd, 15 as in the paper; those who add TI to an attack of their own
    (SSA, Admix, BSR) use 7. ``reach``: how many standard deviations the outermost tap lies from the middle, 3 as in Dong et
    al.'s code and in TransferAttack ("nsig", no sigma): sigma is (size - 1) / 2 / reach pixels, 2.33 for 15 taps. Beyond the
    border the gradient counts as zero.
    """

    def __init__(self, size: int = 15, reach: float = 3.0) -> None:
        if size < 1 or size % 2 == 0 or not reach > 0:
            raise ValueError("translation invariance needs a kernel of an odd size and a reach above 0")
        half = size // 2
        offsets = torch.arange(-half, half + 1, dtype=torch.float64) * (reach / max(half, 1))
        taps = torch.exp(-offsets.square() / 2)
        self.taps = taps / taps.sum()

    def gradient(self, gradient: Tensor) -> Tensor:
        """(N, 3, H, W) -> its smoothed self: along the columns, then along the rows, which is the same for a Gaussian."""
        channels, size = gradient.shape[1], len(self.taps)
        taps = self.taps.to(gradient).expand(channels, 1, size)
        column, row = taps[..., None], taps[..., None, :]
        smoothed = torch.nn.functional.conv2d(gradient, column, padding=(size // 2, 0), groups=channels)
        return torch.nn.functional.conv2d(smoothed, row, padding=(0, size // 2), groups=channels)
