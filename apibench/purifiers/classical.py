"""The classical filters, by the libraries that are known for them: kornia (differentiable) and scikit-image (not).

A library is imported when its purifier is made, and only then.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from apibench._torch import torch
from apibench.purifiers.arrays import Array, ArrayPurifier
from apibench.purifiers.blindspot import crop, reflect
from apibench.purifiers.contract import Purifier

Tensor = torch.Tensor


class Bits(Purifier):
    """``bits``: each colour rounded to ``depth`` bits (1-8), 2**depth levels (Xu, Evans, Qi, NDSS 2018, arXiv 1704.01155)."""

    differentiable = False

    def __init__(self, name: str, iterations: int, depth: int) -> None:
        super().__init__(name, iterations)
        self.depth = depth

    @torch.no_grad()
    def once(self, x: Tensor) -> Tensor:
        steps = 2**self.depth - 1
        return x.mul(steps).round_().div_(steps)


class _Window(Purifier):
    """A filter by kornia over windows of ``size`` x ``size`` (odd), the border reflected.

    kornia reflects once, and refuses pictures that are smaller than its window; so the picture is padded first, by the same
    rule as often as it takes. It picks its arithmetic by the size of the batch; so each image is filtered alone.
    """

    libraries = ("kornia",)

    def __init__(self, name: str, iterations: int, size: int) -> None:
        super().__init__(name, iterations)
        self.size = size

    def once(self, x: Tensor) -> Tensor:
        radius = self.size // 2
        padded = reflect(x, radius)
        filtered = [self.filtered(padded[index : index + 1]) for index in range(len(x))]
        return crop(torch.cat(filtered), radius) if filtered else x

    @abstractmethod
    def filtered(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) -> the same shape; what is nearer to the border than the window is thrown away."""


class Median(_Window):
    """``median``: each colour's median in the window (as a defence: Xu, Evans, Qi, NDSS 2018, arXiv 1704.01155)."""

    def __init__(self, name: str, iterations: int, size: int) -> None:
        super().__init__(name, iterations, size)
        from kornia.filters import median_blur

        self._filter = median_blur

    def filtered(self, x: Tensor) -> Tensor:
        return self._filter(x, self.size)


class Bilateral(_Window):
    """``bilateral``: a mean that weighs neighbours by distance and by colour (Tomasi and Manduchi, ICCV 1998).

    ``sigma_colour``: width over the sum of the three colours' differences, each in [0, 1]; ``sigma_space``: in pixels.
    """

    def __init__(self, name: str, iterations: int, size: int, sigma_colour: float, sigma_space: float) -> None:
        super().__init__(name, iterations, size)
        from kornia.filters import bilateral_blur

        self._filter = bilateral_blur
        self.sigma_colour = sigma_colour
        self.sigma_space = sigma_space

    def filtered(self, x: Tensor) -> Tensor:
        return self._filter(x, self.size, self.sigma_colour, (self.sigma_space, self.sigma_space))


class TotalVariation(ArrayPurifier):
    """``tv``: the picture of least total variation near the given one, each colour for itself (Chambolle 2004).

    ``weight``: of the variation against fidelity, for pixels in [0, 1]. As a defence: Guo et al., arXiv 1711.00117.
    """

    libraries = ("scikit-image",)

    def __init__(self, name: str, iterations: int, weight: float) -> None:
        super().__init__(name, iterations)
        from skimage.restoration import denoise_tv_chambolle

        self._denoise: Callable[..., Any] = denoise_tv_chambolle
        self.weight = weight

    def image(self, pixels: Array) -> Array:
        return np.asarray(self._denoise(pixels, weight=self.weight, channel_axis=-1))


class NonLocalMeans(ArrayPurifier):
    """``nlm``: a mean over the pixels whose surroundings look alike (Buades, Coll, Morel, CVPR 2005).

    ``strength``: how unlike they may look, in pixel values of [0, 1]. Patches of 3 x 3 in a window of 11 x 11, as in feature
    squeezing (Xu, Evans, Qi, NDSS 2018, arXiv 1704.01155).
    """

    libraries = ("scikit-image",)

    def __init__(self, name: str, iterations: int, strength: float) -> None:
        super().__init__(name, iterations)
        from skimage.restoration import denoise_nl_means

        self._denoise: Callable[..., Any] = denoise_nl_means
        self.strength = strength

    def image(self, pixels: Array) -> Array:
        smooth = self._denoise(pixels, patch_size=3, patch_distance=5, h=self.strength, fast_mode=True, channel_axis=-1)
        return np.asarray(smooth).reshape(pixels.shape)  # it drops a side of one pixel


class Wavelet(ArrayPurifier):
    """``wavelet``: shrink the Haar wavelet coefficients of luma and chroma by BayesShrink (Chang, Yu, Vetterli 2000).

    ``strength``: the standard deviation taken for the noise's, in pixel values of [0, 1]; given, not estimated, so that an
    attacker cannot lower it. As a defence, with these choices: Prakash et al., CVPR 2018, arXiv 1801.08926.
    """

    libraries = ("scikit-image", "PyWavelets")

    def __init__(self, name: str, iterations: int, strength: float) -> None:
        super().__init__(name, iterations)
        import pywt  # noqa: F401 - scikit-image imports it when it is too late for a clear word
        from skimage.restoration import denoise_wavelet

        self._denoise: Callable[..., Any] = denoise_wavelet
        self.strength = strength

    def image(self, pixels: Array) -> Array:
        if min(pixels.shape[:2]) < 2:
            return pixels  # there is no detail to shrink
        return np.asarray(
            self._denoise(pixels, sigma=self.strength, wavelet="db1", convert2ycbcr=True, channel_axis=-1)
        )
