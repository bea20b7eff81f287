"""SI and Admix: copies of the image, darker and darker, and with a little of another image mixed in."""

from __future__ import annotations

from apibench._torch import torch
from apibench.attacks.transforms import InputTransform, Others
from apibench.draws import Draws
from apibench.errors import ApibenchError

Tensor = torch.Tensor


class ScaleInvariance(InputTransform):
    """SI: the mean gradient over the copies x / 2^i, i = 0 .. copies - 1 (Lin et al., ICLR 2020, arXiv 1908.06281).

    ``copies``: 5 as in the paper, a gradient each.
    """

    def __init__(self, copies: int = 5) -> None:
        if copies < 1:
            raise ValueError("scale invariance needs at least one copy")
        self.copies = copies

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:  # noqa: ARG002
        """(N, 3, H, W) -> the same, nearer to black."""
        return x * 0.5**copy


class Admix(InputTransform):
    """Admix: the mean gradient over the copies (x + eta x') / 2^i, x' an image of another class (Wang et al., ICCV 2021,
    arXiv 2102.00436).

    ``copies`` images x' are mixed in (3 in the paper), each at ``scales`` scales, i = 0 .. scales - 1 (5), with the strength
    ``eta`` (0.2): copies * scales gradients, 15. The images x' are drawn anew for each gradient, one and the same for all scales
    of a copy, by the image's own generator, from the clean set; sums are not cut off at 1. TransferAttack, and the authors' code,
    mix in the other images of the batch as attacked so far, whatever their class, and now and then the image itself.
    """

    def __init__(self, copies: int = 3, scales: int = 5, eta: float = 0.2) -> None:
        if copies < 1 or scales < 1 or not eta >= 0:
            raise ValueError("admix needs at least one copy and one scale, and eta of at least 0")
        self.scales = scales
        self.eta = eta
        self.copies = copies * scales
        self._others: Others | None = None
        self._drawn: dict[int, Tensor] = {}  # the images mixed into the copies of this gradient

    def begin(self, clean: Tensor, others: Others | None) -> None:  # noqa: ARG002
        """Raises ApibenchError where there are no other images."""
        if others is None:
            raise ApibenchError("admix mixes in other images of the set, and there are none here (others=None)")
        self._others = others
        self._drawn.clear()

    def pixels(self, x: Tensor, copy: int, draws: Draws) -> Tensor:
        """(N, 3, H, W) -> the same with another image in it, darker; values from 0 to 1 + eta."""
        assert self._others is not None, "begin comes first"
        number, scale = divmod(copy, self.scales)
        if number not in self._drawn:
            height, width = x.shape[-2:]
            self._drawn[number] = self._others(draws, (height, width)).to(x)
        return (x + self.eta * self._drawn[number]) * 0.5**scale

    def gradient(self, gradient: Tensor) -> Tensor:
        """As it is. All copies have been shown by now: the next gradient has images of its own."""
        self._drawn.clear()
        return gradient
