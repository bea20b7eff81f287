"""``jpeg``: encode as JPEG and decode again (Das et al., arXiv 1705.02900; Dziugaite et al., arXiv 1608.00853)."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from apibench._torch import torch
from apibench.purifiers.contract import Purifier

Tensor = torch.Tensor


class Jpeg(Purifier):
    """Pillow's encoder at ``quality`` (1-95), chroma halved as is customary; the pixels are rounded to 8 bits on the way.

    Not differentiable: no gradient passes.
    """

    differentiable = False

    def __init__(self, name: str, iterations: int, quality: int) -> None:
        super().__init__(name, iterations)
        if not 1 <= quality <= 95:
            raise ValueError(f"{name}: JPEG quality must be 1 to 95")
        self.quality = quality

    @torch.no_grad()
    def once(self, x: Tensor) -> Tensor:
        return torch.stack([self._image(image) for image in x]).to(x)

    def _image(self, x: Tensor) -> Tensor:
        pixels = x.detach().mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=self.quality, subsampling="4:2:0")
        decoded = np.array(Image.open(buffer).convert("RGB"))
        return torch.from_numpy(decoded).permute(2, 0, 1).float().div_(255)
