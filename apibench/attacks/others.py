"""Other images of the set, for the transforms that mix them in (Admix)."""

from __future__ import annotations

import bisect
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from apibench._torch import torch
from apibench.attacks.transforms import Others
from apibench.draws import Draws
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, Pixels
from apibench.pixels import to_tensor

Tensor = torch.Tensor

KEPT_BYTES = 256 * 2**20  # of decoded images: 341 of 512 x 512 pixels


class OtherImages:
    """Draws from ``records``, decoding what is drawn; as much that is decoded is kept as memory can always spare."""

    def __init__(self, images: ImageSet, records: Sequence[ImageRecord]) -> None:
        self._images = images
        self._records = records
        self._decoded: OrderedDict[str, Pixels] = OrderedDict()
        # Where in the records the images of a class are, and those of the same pixels: what is not drawn from is few.
        self._of_class: defaultdict[int | None, list[int]] = defaultdict(list)
        self._of_pixels: defaultdict[str, list[int]] = defaultdict(list)
        for place, record in enumerate(records):
            self._of_class[record.label].append(place)
            self._of_pixels[record.pixels_sha256].append(place)

    def of(self, batch: Sequence[ImageRecord]) -> Others:
        """What an attack on the images ``batch`` asks: draws (one generator an image) and a size -> (N, 3, H, W) in [0, 1].

        Each is of another class where both labels are known (of any class, if the set has no other), drawn evenly by the
        image's generator, and resized (bilinear, antialiased). Raises ApibenchError where the set has no other image.
        """
        omitted: list[list[int]] = []

        def others(draws: Draws, size: tuple[int, int]) -> Tensor:
            if not omitted:  # most attacks never ask
                omitted.extend(self._omitted(record) for record in batch)
            drawn = [self._draw(Draws([g]), own) for g, own in zip(draws.generators, omitted, strict=True)]
            return torch.cat([_resized(to_tensor(pixels), size) for pixels in drawn])

        return others

    def _omitted(self, image: ImageRecord) -> list[int]:
        """The places in the records, in their order, that are not drawn from for ``image``."""
        itself = self._of_pixels.get(image.pixels_sha256, [])
        if len(itself) == len(self._records):
            raise ApibenchError(f"{self._images.folder}: has no other image than {image.id} to mix into it")
        alike = [] if image.label is None else self._of_class.get(image.label, [])
        omitted = sorted({*itself, *alike})
        return omitted if len(omitted) < len(self._records) else [*itself]

    def _draw(self, draws: Draws, omitted: list[int]) -> Pixels:
        while True:
            place = draws.whole(len(self._records) - len(omitted))[0]
            for passed in omitted:
                place += passed <= place
            try:
                return self._read(self._records[place])
            except ApibenchError:
                bisect.insort(omitted, place)  # it is reported when its own turn comes
                if len(omitted) == len(self._records):
                    raise

    def _read(self, record: ImageRecord) -> Pixels:
        if record.id not in self._decoded:
            self._decoded[record.id] = self._images.read_pixels(record)
            while len(self._decoded) > 1 and sum(pixels.nbytes for pixels in self._decoded.values()) > KEPT_BYTES:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(record.id)
        return self._decoded[record.id]


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
