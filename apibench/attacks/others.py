"""Other images of the set, for the transforms that mix them in (Admix)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from apibench._torch import torch
from apibench.attacks.transforms import Others
from apibench.draws import Draws
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, Pixels
from apibench.pixels import to_tensor

Tensor = torch.Tensor

CACHED = 32  # decoded images: 25 MB at 512 x 512


class OtherImages:
    """Draws from ``records``, decoding what is drawn; as many decoded images are kept as memory can always spare."""

    def __init__(self, images: ImageSet, records: Sequence[ImageRecord]) -> None:
        self._images = images
        self._records = records
        self._decoded: OrderedDict[str, Pixels] = OrderedDict()

    def of(self, batch: Sequence[ImageRecord]) -> Others:
        """What an attack on the images ``batch`` asks: draws (one generator an image) and a size -> (N, 3, H, W) in [0, 1].

        Each is of another class where both labels are known (of any class, if the set has no other), drawn evenly by the
        image's generator, and resized (bilinear, antialiased). Raises ApibenchError where the set has no other image.
        """
        pools: list[list[ImageRecord]] = []

        def others(draws: Draws, size: tuple[int, int]) -> Tensor:
            if not pools:  # most attacks never ask
                pools.extend(self._pool(record) for record in batch)
            drawn = [self._draw(Draws([g]), pool) for g, pool in zip(draws.generators, pools, strict=True)]
            return torch.cat([_resized(to_tensor(pixels), size) for pixels in drawn])

        return others

    def _pool(self, image: ImageRecord) -> list[ImageRecord]:
        others = [other for other in self._records if other.pixels_sha256 != image.pixels_sha256]
        elsewhere = [other for other in others if None in (other.label, image.label) or other.label != image.label]
        if not others:
            raise ApibenchError(f"{self._images.folder}: has no other image than {image.id} to mix into it")
        return elsewhere or others

    def _draw(self, draws: Draws, pool: list[ImageRecord]) -> Pixels:
        while True:
            chosen = pool[draws.whole(len(pool))[0]]
            try:
                return self._read(chosen)
            except ApibenchError:
                pool.remove(chosen)  # it is reported when its own turn comes
                if not pool:
                    raise

    def _read(self, record: ImageRecord) -> Pixels:
        if record.id not in self._decoded:
            self._decoded[record.id] = self._images.read_pixels(record)
            if len(self._decoded) > CACHED:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(record.id)
        return self._decoded[record.id]


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
