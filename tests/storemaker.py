"""Small response stores for tests, with known answers, written through the store's own class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from apibench.imageset import ImageRecord, ImageSet
from apibench.query.contract import Answer, ErrorKind, Label, Parsed, ProviderError
from apibench.query.store import Key, ResponseStore

Said = Sequence[Label | str] | str  # labels, or 'rejected', 'failed', 'uncertain', 'pending' (killed in flight)


class StoreMaker:
    """Writes a store: ``ask`` records an image and what became of the question about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = ResponseStore.open(path)

    def image(
        self,
        source: str,
        variant: str,
        *,
        folder: str = "set",
        file: str = "x.png",
        data: bytes = b"",
        truth: int | None = None,
        truth_from: str = "given",
    ) -> str:
        """List an image. Its hash is that of ``data``, or of its name where it has no file. ``truth``: its ImageNet class."""
        sha256 = hashlib.sha256(data or f"{source} {variant} {folder}".encode()).hexdigest()
        label_source = None if truth is None else truth_from
        record = ImageRecord(f"image-{source}", file, sha256, sha256, 16, 16, truth, label_source, source, variant)
        self.store.remember(ImageSet(self.path.parent / folder, [record]))
        return sha256

    def ask(
        self,
        source: str,
        variant: str,
        said: Said,
        *,
        campaign: str = "default",
        provider: str = "acme",
        origin: str = "emulated",
        settings: str = "{}",
        version: str | None = "emulated/net-a",
        raw: bytes = b"{}",
        price: float | None = 0.001,
        folder: str = "set",
        file: str = "x.png",
        data: bytes = b"",
        truth: int | None = None,
        truth_from: str = "given",
    ) -> str:
        """Record one call. A label may be given by its name alone; scores then fall from 0.9 in steps of 0.1."""
        sha256 = self.image(source, variant, folder=folder, file=file, data=data, truth=truth, truth_from=truth_from)
        key = Key(campaign, provider, origin, settings)
        if sha256 in self.store.settled(key):
            return sha256  # an image with an answer is never sent again
        attempts = self.store.begin(key, [sha256], price=price, cap=None)
        assert attempts is not None
        if not isinstance(said, str):
            labels = tuple(
                label if isinstance(label, Label) else Label(label, round(0.9 - 0.1 * rank, 6))
                for rank, label in enumerate(said)
            )
            self.store.record_answer(attempts[0], Answer(raw, Parsed(labels, version)), 0.1)
        elif said != "pending":
            kind = ErrorKind.REJECTED if said == "rejected" else ErrorKind.TRANSIENT
            error = ProviderError(kind, "it said no", code="SomeException", uncertain=said == "uncertain")
            self.store.record_error(attempts[0], error, 0.1)
        return sha256

    def close(self) -> Path:
        self.store.close()
        return self.path
