"""Names of the sets of ``apibench evaluate SET...`` that share a variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from apibench.errors import ApibenchError
from apibench.evaluation.transfer_rates import Variant
from apibench.evaluation.transfer_sets import told_apart
from apibench.imageset import ImageSet, SetWriter
from tests.conftest import paint


def made(folder: Path, variant: str, settings: dict[str, object], seed: int = 0) -> ImageSet:
    writer = SetWriter(folder, {"settings": settings, "seed": seed})
    writer.write("photo", paint(seed), variant=variant, source="0" * 64, settings=settings)
    finished = writer.finish(["photo"])
    assert finished is not None
    return finished


def test_sets_of_one_variant_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    def names(variant: str, *settings: dict[str, object], seeds: Sequence[int] = (0, 0, 0)) -> list[str]:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        sets_ = [
            made(place / str(n), variant, one, seed) for n, (one, seed) in enumerate(zip(settings, seeds, strict=False))
        ]
        return [name for name, _ in told_apart(variant, sets_)]

    def attack(steps: int = 10, *surrogates: str) -> dict[str, object]:
        return {"attack": {"name": "mi-di", "steps": steps, "parts": [{"steps": steps}]}, "surrogates": surrogates}

    assert names("mi-di/eps8", attack()) == ["mi-di/eps8"]
    assert names("mi-di/eps8", attack(10), attack(100)) == ["mi-di(steps=10)/eps8", "mi-di(steps=100)/eps8"]
    purified = names("mi-di/random/l2-1e+20+ncis/2", attack(10, "a"), attack(100, "a", "b"))
    assert purified[1] == "mi-di(steps=100,surrogates=2)/random/l2-1e+20+ncis/2"
    parsed = Variant.parse(purified[1])
    assert (parsed.aim, parsed.bound, parsed.purified) == ("random", "l2-1e+20", "ncis/2")
    of_two = names("mi/eps8", attack(10, "timm:a", "timm:b"), attack(10, "timm:a", "timm:c"))
    assert of_two == ["mi(surrogates=b)/eps8", "mi(surrogates=c)/eps8"]
    controls = [{"control": {"like": like}} for like in ("mi-di/eps8", "vmi/eps8")]
    assert names("sign-noise/eps8", *controls) == ["sign-noise(like=mi-di)/eps8", "sign-noise(like=vmi)/eps8"]
    odd = names("mi/eps8", *({"note": note} for note in ("a/b", "a+b", "x" * 90)))
    assert len(set(odd)) == 3, "what is written alike gets a digest"
    assert all(Variant.parse(name).bound == "eps8" for name in odd)
    others = names("mi/eps8", attack(), attack(), seeds=(0, 1))
    assert [name[:10] for name in others] == ["mi(images="] * 2
    with pytest.raises(ApibenchError, match="mi/eps8: the same images twice"):
        names("mi/eps8", attack(), attack())
