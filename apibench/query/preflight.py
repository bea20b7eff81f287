"""Before anything is paid for: can this image be sent to this provider at all?

An image is held against the provider's documented limits (:class:`~apibench.query.contract.ImageLimits`), by its header alone.
One that is only too large in bytes is compressed again, without loss: the smallest of a few PNGs with the same pixels. Nothing
else is changed and nothing ever lost: not scaled, not made a JPEG, not padded, since the labels would be another image's.

**Identity.** An answer belongs to the file of the image set: the store's key is that file's SHA-256, however it was
sent. Where the bytes on the wire are others, their own SHA-256 is noted beside the attempt (``sent_sha256`` in the store,
``sent`` in a recording). The same pixels, so the same measurement: where the limit is larger the file itself is sent.

What cannot be sent is an outcome like any refusal (:func:`prepare`): ``rejected``, with the code ``preflight``, and no request.
Unlike a vendor's own it is not for good: every start looks at such an image again (:func:`refused_again`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from apibench.errors import ApibenchError
from apibench.query.contract import ErrorKind, ImageLimits, ProviderError
from apibench.query.result import Question
from apibench.query.store import Key, ResponseStore

CODE = "preflight"
# zlib's strategies, as Pillow numbers them: run lengths, Huffman only, filtered, default. Which of them is best depends on the
# picture (of a noisy photograph the first two, and they take a tenth of the time); the first that is small enough is taken.
STRATEGIES = (3, 2, 1, 0)
_COLOURS = 256  # of a palette: one byte a pixel instead of three


@dataclass(frozen=True)
class Unsendable:
    """Why an image cannot be sent, in a line that names the limit."""

    reason: str


def preflight(data: bytes, limits: ImageLimits) -> bytes | Unsendable:
    """The bytes to send: ``data`` itself, or a PNG of the same pixels that fits ``limits.max_bytes``; or why there are none.

    ``limits`` are those of the wire (:meth:`ImageLimits.over`).
    """
    try:
        with Image.open(BytesIO(data)) as image:
            kind, (width, height) = image.format, image.size
    except Image.DecompressionBombError as error:
        return Unsendable(f"too many pixels to be opened safely ({error!s:.100})")
    except Exception:  # noqa: BLE001 - a reader of hostile bytes raises whatever they make it raise
        return Unsendable("not an image that can be read")
    if kind not in limits.formats:
        return Unsendable(f"a {kind} file; it takes {' and '.join(limits.formats)} of apibench")
    size = f"{width} x {height} pixels"
    if min(width, height) < limits.min_side:
        return Unsendable(f"{size}: it takes no side below {limits.min_side:,}")
    if limits.max_side is not None and max(width, height) > limits.max_side:
        return Unsendable(f"{size}: it takes no side above {limits.max_side:,}")
    if limits.max_pixels is not None and width * height > limits.max_pixels:
        return Unsendable(f"{size}: it takes at most {limits.max_pixels:,} altogether")
    if limits.max_bytes is None or len(data) <= limits.max_bytes:
        return data
    return _smaller(data, limits.max_bytes)


def prepare(title: str, limits: ImageLimits) -> Callable[[bytes], bytes]:
    """What the engine is given as ``prepare``: bytes of a file to bytes that are sent.

    It raises ProviderError (REJECTED, not sent) naming the provider by its ``title`` and the limit.
    """

    def prepared(data: bytes) -> bytes:
        found = preflight(data, limits)
        if isinstance(found, Unsendable):
            raise ProviderError(ErrorKind.REJECTED, f"{title}: {found.reason}", code=CODE, sent=False)
        return found

    return prepared


def refused_again(
    store: ResponseStore, key: Key, questions: Mapping[str, Question], title: str, limits: ImageLimits
) -> dict[str, str]:
    """Of the images that an earlier start could not send, those that still cannot be, by SHA-256, and why.

    To look again is free, and the limits may be others now: a provider's other transport is of the same key and may take more.
    """
    with store.reading() as connection:
        found = connection.execute(
            "SELECT DISTINCT sha256 FROM attempts WHERE (campaign, provider, origin, settings) = (?, ?, ?, ?) "
            "AND error_kind = 'rejected' AND error_code = ?",
            (*key.values(), CODE),
        ).fetchall()
    told = {*store.settled(key), *store.uncertain(key)}  # each image is counted once
    check, refused = prepare(title, limits), {}
    for (sha256,) in found:
        if sha256 not in questions or sha256 in told:
            continue
        try:
            check(questions[sha256].read())
        except ProviderError as error:
            refused[sha256] = error.message
        except ApibenchError:
            continue  # a file that is gone or changed: whoever would send it says so
    return refused


def _smaller(data: bytes, most: int) -> bytes | Unsendable:
    """A PNG of the same pixels of at most so many bytes. It is decoded again before it is taken for the same."""
    best = len(data)
    try:
        with Image.open(BytesIO(data)) as image:
            if image.format != "PNG":
                return Unsendable(f"{best:,} bytes: it takes at most {most:,}")
            image.load()
            for form in _forms(image):
                for strategy in STRATEGIES:
                    found = _encoded(form, strategy)
                    best = min(best, len(found))
                    if len(found) <= most and _same(found, image):
                        return found
    except Exception:  # noqa: BLE001 - as above
        return Unsendable("not an image that can be read")
    return Unsendable(f"{best:,} bytes even compressed again: it takes at most {most:,}")


def _forms(image: Image.Image) -> list[Image.Image]:
    """The image as it is, and where it has few colours or none at all with one byte a pixel."""
    if image.mode != "RGB" or image.info.get("transparency") is not None:
        return [image]
    forms = [image]
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        forms.insert(0, red)
    elif image.getcolors(_COLOURS) is not None:
        forms.insert(0, image.convert("P", palette=Image.Palette.ADAPTIVE, colors=_COLOURS))
    return forms


def _encoded(image: Image.Image, strategy: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=9, compress_type=strategy)
    return buffer.getvalue()


def _same(found: bytes, image: Image.Image) -> bool:
    with Image.open(BytesIO(found)) as again:
        return again.size == image.size and again.convert(image.mode).tobytes() == image.tobytes()
