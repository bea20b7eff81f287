"""``jpeg``: encode as JPEG and decode again (Das et al., arXiv 1705.02900; Dziugaite et al., arXiv 1608.00853)."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from apibench.purifiers.arrays import Array, ArrayPurifier


class Jpeg(ArrayPurifier):
    """Pillow's encoder at ``quality`` (1-95), chroma halved as is customary; the pixels are rounded to 8 bits on the way."""

    libraries = ("pillow",)

    def __init__(self, name: str, iterations: int, quality: int) -> None:
        super().__init__(name, iterations)
        if not 1 <= quality <= 95:
            raise ValueError("JPEG quality must be 1 to 95")
        self.quality = quality

    def image(self, pixels: Array) -> Array:
        whole = np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
        buffer = BytesIO()
        Image.fromarray(whole).save(buffer, format="JPEG", quality=self.quality, subsampling="4:2:0")
        decoded = np.asarray(Image.open(buffer).convert("RGB"))
        return decoded.astype(pixels.dtype) / pixels.dtype.type(255)
