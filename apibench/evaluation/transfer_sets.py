"""The sets of ``apibench evaluate SET...``: their manifests, which may come from anybody, checked, and their names told apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apibench import text
from apibench.errors import ApibenchError
from apibench.evaluation.cells import CLEAN, display
from apibench.evaluation.transfer_rates import Variant
from apibench.imageset import CLASSES, ImageRecord, ImageSet
from apibench.pixels import sources_sha256

_LONGEST = 32  # characters of a setting in a name


def open_sets(folders: Sequence[Path], clean: Path | None) -> tuple[dict[str, ImageSet], ImageSet]:
    """The adversarial sets by name, and the clean one: that of ``clean``, else the one of ``folders`` that nobody attacked.

    A name is the variant. Where sets of one variant were made by other settings, these are in it (see :func:`told_apart`).
    Raises ApibenchError where a set cannot be read, is given twice, or the clean one is missing.
    """
    of_variant: dict[str, list[ImageSet]] = {}
    for folder in [*folders, *([clean] if clean else [])]:
        images = load(folder)
        variant = images.records[0].variant
        if folder == clean and variant != CLEAN:
            raise ApibenchError(f"{folder}: is not a clean image set ({variant}); leave --clean out, or name another")
        of_variant.setdefault(variant, []).append(images)
    photographs = of_variant.pop(CLEAN, [])
    if len(photographs) > 1:
        first, second, *_ = (images.folder for images in photographs)
        raise ApibenchError(f"{CLEAN}: two clean sets, {first} and {second}; name one of them")
    if not of_variant:
        raise ApibenchError(f"{folders[0]}: is the clean set; name the adversarial sets that were made from it too")
    if not photographs:
        first = next(iter(of_variant.values()))[0].folder
        raise ApibenchError(f"{first}: its clean images are in none of the sets; name their set with --clean SET")
    given = {name: images for variant, sets in of_variant.items() for name, images in told_apart(variant, sets)}
    return given, photographs[0]


def load(folder: Path) -> ImageSet:
    """A set of one variant. Raises ApibenchError, in one line, where its manifest does not hold what is used of it."""
    images = ImageSet.load(folder)
    for record in images.records:
        wrong = _wrong(record)
        if wrong:
            raise ApibenchError(f"{folder}: the manifest's {record.id}: {wrong}; make this set again")
    variants = sorted({record.variant for record in images.records})
    if len(variants) > 1:
        raise ApibenchError(f"{folder}: holds images of several variants: {text.plain(', '.join(variants[:4]))}")
    try:
        Variant.parse(variants[0])
    except ApibenchError as error:
        raise ApibenchError(f"{folder}: {error}; make this set again") from error
    return images


def _wrong(record: ImageRecord) -> str:
    """What is wrong with a record, of what an image set itself does not check; empty where nothing is."""
    surrogates = record.settings.get("surrogates", [])
    if not isinstance(surrogates, list) or not all(isinstance(name, str) for name in surrogates):
        return "settings.surrogates are not names"
    gradients, target = record.extra.get("gradients"), record.extra.get("target")
    if gradients is not None and not (_is_number(gradients) and 0 <= gradients < 1e15):  # neither NaN nor without end
        return "extra.gradients is not a number"
    if target is not None and not (isinstance(target, int) and _is_number(target) and 0 <= target < CLASSES):
        return "extra.target is not a class index"
    try:
        record.to_json().encode()
        json.dumps(record.settings, allow_nan=False)
    except UnicodeEncodeError:
        return "holds half a character, which is no text"
    except ValueError:
        return "settings hold a number that is none (NaN or infinity)"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def told_apart(variant: str, sets: Sequence[ImageSet]) -> list[tuple[str, ImageSet]]:
    """Sets of one variant by name: ``mi-di(steps=100)/eps8`` where others have other steps, the variant itself where it is one.

    Of a list of classifiers, the name says how many, or those that the others have not. Where sets were made alike from other
    images, it says the start of these images' hash. Raises ApibenchError for the same images, made alike, given twice.
    """
    settings = [_flat(images.records[0].settings) for images in sets]
    keys = [key for key in sorted({k for each in settings for k in each}) if _differ([s.get(key) for s in settings])]
    told = [[f"{key.rpartition('.')[2]}={_short(key, variant, s, settings)}" for key in keys] for s in settings]
    parts = [",".join(each) for each in told]
    found: dict[str, ImageSet] = {}
    for images, mine in zip(sets, parts, strict=True):
        if parts.count(mine) > 1:
            mine = ",".join([*([mine] if mine else []), f"images={sources_sha256(images.records)[:6]}"])
        # After the attack's own parts, before its aim and bound and what purified its images.
        head = variant.partition("/")[0].partition("+")[0]
        name = f"{head}({mine}){variant[len(head) :]}" if len(sets) > 1 else variant
        if name in found:
            raise ApibenchError(
                f"{text.plain(variant)}: the same images twice, in {found[name].folder} and in {images.folder}"
            )
        found[name] = images
    return list(found.items())


def _flat(settings: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """``attack.steps`` and the like. Without the numbers of the parts: the attack's name has them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{within}{key}.")
        elif f"{within}{key}" != "attack.parts":
            found[f"{within}{key}"] = value
    return found


def _differ(values: Sequence[object]) -> bool:
    return len({json.dumps(value, sort_keys=True) for value in values}) > 1


def _short(key: str, variant: str, settings: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """What a setting is, without what a variant is taken apart at: short, and another for every other value."""

    def written(value: object) -> str:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            lengths = {json.dumps(v): len(v) if isinstance(v, list) else -1 for v in (each.get(key) for each in others)}
            if len(set(lengths.values())) == len(lengths):
                return str(len(value))
            return ".".join(display(name) for name in value if not all(name in (o.get(key) or []) for o in others))
        # A control is like an attack of, as a rule, its own bound.
        plain = value.removesuffix(f"/{Variant.parse(variant).bound}") if isinstance(value, str) else json.dumps(value)
        return "".join(c if c.isalnum() or c in "-.:_" else "-" for c in plain)

    mine = settings.get(key)
    said = written(mine)
    alike = {json.dumps(other.get(key), sort_keys=True) for other in others if written(other.get(key)) == said}
    if len(alike) == 1 and 0 < len(said) <= _LONGEST:
        return said
    return f"~{hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()[:6]}"
