"""How far an image is from the one it was made from, on the 8-bit pixels of the files. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from apibench.imageset import Pixels

LEVELS = 255
SSIM_WINDOW = 11

Noise = npt.NDArray[np.int16]


def difference(before: Pixels, after: Pixels) -> Noise:
    """(H, W, 3) whole levels, -255 to 255."""
    return after.astype(np.int16) - before


def linf(noise: Noise) -> int:
    """The largest absolute value, in levels of 255."""
    return int(np.abs(noise).max())


def square(noise: Noise) -> int:
    """The sum of the squares, in levels: exact, as a bound in L2 is checked."""
    return int((noise.astype(np.int64) ** 2).sum())


def l2(noise: Noise) -> float:
    """The Euclidean norm over all values, for pixels in [0, 1]."""
    return float(np.sqrt(square(noise))) / LEVELS


def ssim(before: Pixels, after: Pixels) -> float:
    """Structural similarity, at most 1, the mean over pixels and channels (Wang et al., IEEE TIP 13, 2004).

    With the paper's settings: a Gaussian window of 11 pixels and width 1.5, K1 = 0.01, K2 = 0.03, pixels whose window leaves
    the image left out. Of an image of fewer than 11 pixels on a side, all but the middle one or two along the shorter side are
    left out, and as many at each end of the longer one; the window is the same, and sees the image mirrored at its border.
    """
    from skimage.metrics import structural_similarity  # a third of a second to import

    side = min(before.shape[:2])
    window = min(SSIM_WINDOW, side if side % 2 else side - 1)  # decides what is left out, not how wide the Gaussian is
    # float32 is as good for the sixth decimal and takes half the time.
    one, other = before.astype(np.float32), after.astype(np.float32)
    found = structural_similarity(  # type: ignore[no-untyped-call]
        one,
        other,
        win_size=window,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=LEVELS,
        channel_axis=-1,
    )
    return float(found)


def measured(before: Pixels, after: Pixels) -> dict[str, Any]:
    """For a record's ``extra``: ``linf`` in levels of 255, ``l2`` for pixels in [0, 1], and ``ssim``."""
    noise = difference(before, after)
    return {"linf": linf(noise), "l2": round(l2(noise), 6), "ssim": round(ssim(before, after), 6)}
