"""How fast a report's page opens: the time to first paint and to DOMContentLoaded in headless Chromium, and what it weighs.

    python benchmarks/page_speed.py [--photographs 1000] [--rounds 5] [--keep DIR]

A store of that many photographs, 2 attacks, 3 purifiers (one at two iterations) and 4 vendors, its page, and a browser that opens
it, filters it, turns to the next photographs and moves a slider. The pictures are 20 random textures, each standing for many
photographs: what is measured depends on how many there are, not on what they show.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from apibench.imageset import ImageRecord, ImageSet, Pixels, encode_png
from apibench.labels import vocabulary
from apibench.query.contract import Answer, Label, Parsed
from apibench.query.store import Key, ResponseStore
from apibench.report import cards, compare, frames, page
from apibench.report.picture import Files
from tests.chromium import Tab, browser

TEXTURES, SIZE = 20, (320, 213)
ATTACKS = ("mi-di/eps8", "mi-di/eps16")
PURIFIERS = ("gaussian/1", "gaussian/2", "jpeg:50/1", "ncis/2")
VENDORS = ("aws", "azure", "clarifai", "google")
TIMES = """(() => {
  const loaded = performance.getEntriesByType("navigation")[0];
  return [performance.getEntriesByType("paint")[0].startTime, loaded.domContentLoadedEventEnd, loaded.loadEventEnd];
})()"""
# Milliseconds from an action until what it asks for is on the screen.
ACTION = """(async () => {{
  const start = performance.now(), before = document.body.dataset.shown;
  {action};
  while (document.body.dataset.shown === before) await new Promise((done) => setTimeout(done, 1));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}})()"""
CHOOSE = 'const one = document.getElementById("pick-{name}"); one.value = "{value}"; one.form.dispatchEvent(new Event("change"))'


def texture(number: int) -> Pixels:
    """Noise with the spectrum of photographs (1/f), in colour."""
    random = np.random.default_rng(number)
    width, height = SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(random.normal(size=(3, height, width))) / np.maximum(frequency, 1 / width)
    values = np.fft.irfft2(spectrum, s=(height, width)).transpose(1, 2, 0)
    return np.clip(128 + 50 * values / values.std(), 0, 255).astype(np.uint8)


def variants(number: int) -> Iterator[tuple[str, Pixels]]:
    random = np.random.default_rng(number)
    clean = texture(number)
    sent = {"clean": clean}
    for attack in ATTACKS:
        epsilon = int(attack.rpartition("eps")[2])
        noise = epsilon * random.choice([-1, 0, 1], clean.shape)
        sent[attack] = np.clip(clean + noise, 0, 255).astype(np.uint8)
    for name, pixels in sent.items():
        yield name, pixels
        for strength, purifier in enumerate(PURIFIERS, 1):
            yield (
                f"{name}+{purifier}",
                np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(strength / 2))),
            )


def make(folder: Path, photographs: int) -> Path:
    """The store and its files."""
    random = np.random.default_rng(0)
    classes = [one.name for one in vocabulary().classes]
    names = list(random.choice(classes, 60))
    (folder / "set").mkdir()
    store = ResponseStore.open(folder / "store.sqlite")
    for number in range(min(TEXTURES, photographs)):
        for variant, pixels in variants(number):
            data = encode_png(pixels)
            sha256 = hashlib.sha256(data).hexdigest()
            (folder / "set" / f"{sha256[:16]}.png").write_bytes(data)
            records = [
                ImageRecord(
                    f"photo-{one:05d}",
                    f"{sha256[:16]}.png",
                    sha256,
                    sha256,
                    *SIZE,
                    number * 37,
                    "given",
                    f"{one:064d}",
                    variant,
                )
                for one in range(number, photographs, TEXTURES)
            ]
            store.remember(ImageSet(folder / "set", records))
            for vendor in VENDORS:
                said = (
                    [names[number], *random.choice(names, 5)]
                    if random.random() < 0.4
                    else list(random.choice(names, 6))
                )
                labels = tuple(
                    Label(str(name), round(0.9 - 0.1 * rank, 2)) for rank, name in enumerate(dict.fromkeys(said))
                )
                attempts = store.begin(Key("speed", vendor, "emulated", "{}"), [sha256], price=0.0, cap=None)
                assert attempts is not None
                store.record_answer(attempts[0], Answer(b"{}", Parsed(labels, "emulated/a network")), 0.1)
    store.close()
    return folder / "store.sqlite"


def remember_thumbnails() -> None:
    """Each texture's thumbnails are made once: writing is not what is measured here."""
    made: dict[tuple[bytes, int], cards.Thumbnail] = {}
    real = cards._thumbnail

    def remembered(pixels: Pixels, quality: int) -> cards.Thumbnail:
        key = hashlib.sha256(pixels.tobytes()).digest(), quality
        if key not in made:
            made[key] = real(pixels, quality)
        return made[key]

    cards._thumbnail = remembered


def measure(tab: Tab, file: Path, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        tab.open(file)
        tab.wait('performance.getEntriesByType("paint").length > 0')
        for name, value in zip(("first paint", "DOMContentLoaded", "load"), tab.run(TIMES), strict=True):
            found.setdefault(name, []).append(value)
        actions = {
            "next photographs": 'document.getElementById("next").click()',
            "filter: provider and outcome": CHOOSE.format(name="fate", value="l"),
            "filter: class": CHOOSE.format(name="class", value=str(37 * 7)),
        }
        for name, action in actions.items():
            found.setdefault(name, []).append(tab.run(ACTION.format(action=action)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="make it there, and leave it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        file = folder / "index.html"
        if not file.exists():
            folder.mkdir(exist_ok=True)
            store = make(folder, options.photographs)
            found = frames.read(store)
            groups = compare.answers(found)
            rows = compare.rows(groups)
            remember_thumbnails()
            start = time.monotonic()
            page.write(file, groups, rows, Files(store, found.images), found.truth())
            print(f"written in {time.monotonic() - start:.0f} s")
        beside = [one.stat().st_size for one in folder.glob("index_files/*.js")]
        print(
            f"index.html: {file.stat().st_size / 1e6:.1f} MB; beside it {len(beside)} files, {sum(beside) / 1e6:.1f} MB"
        )
        with browser(Path(temporary) / "profile") as tab:
            tab.size(1280, 900)
            for name, values in measure(tab, file, options.rounds).items():
                print(f"{name}: {statistics.median(values):.0f} ms ({min(values):.0f} to {max(values):.0f})")
            assert not tab.complaints, tab.complaints
            assert all(address.startswith(("file:", "data:")) for address in tab.requests)


if __name__ == "__main__":
    main()
