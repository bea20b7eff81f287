"""Purifiers by name: what can be written, what is refused and in which words, and what others may add."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from apibench import plugins, purifiers
from apibench._torch import torch
from apibench.commands.purifiers import purifiers as command
from apibench.errors import ApibenchError
from apibench.purifiers import Kind, Parameter, registry
from apibench.purifiers.blindspot import BlindSpotNet, BlindSpotSettings
from apibench.purifiers.contract import Purifier


def weights(path: Path, *, kernel: int = 5, **settings: object) -> Path:
    """A file of random weights; ``settings`` go into the network's."""
    network = BlindSpotNet(BlindSpotSettings(layers=2, filters=4, **settings))  # type: ignore[arg-type]
    about = {"layers": 2, "filters": 4, **settings}
    header = {"format": "blindspot-1", "network": about, "smoothing": {"kernel": kernel, "sigma": 1.0}}
    save_file(network.state_dict(), path, metadata={"apibench": json.dumps(header)})
    return path


class Same(Purifier):
    """The picture, times ``gain``."""

    def __init__(self, name: str, iterations: int, gain: float) -> None:
        super().__init__(name, iterations)
        self.gain = gain

    def once(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * x


SAME = Kind("same", "nothing", "none", Same, (Parameter("GAIN", 1.0, 0.0, 2.0),))


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry._kinds, "_own", dict(registry._kinds._own))


NAMES = {
    "gaussian": ("gaussian", 1),
    "gaussian:7": ("gaussian:7,1", 1),
    "gaussian:7,1.50": ("gaussian:7,1.5", 1),
    "gaussian/3": ("gaussian", 3),
    "jpeg": ("jpeg:50", 1),
    "bits:5": ("bits:5", 1),
    "median": ("median:3", 1),
    "bilateral:7": ("bilateral:7,0.2,1.5", 1),
    "tv:0.25": ("tv:0.25", 1),
    "nlm:0.0123456789": ("nlm:0.0123456789", 1),
    "wavelet:0.1/2": ("wavelet:0.1", 2),
    "ncis:4": ("ncis", 4),
    "ncis/4": ("ncis", 4),
    "jpeg:50+ncis:4": ("jpeg:50/1+ncis/4", 1),
    "jpeg/2+gaussian:5,1/3+bits": ("jpeg:50/2+gaussian:5,1/3+bits:4/1", 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_written(name: str) -> None:
    made = purifiers.create(name)
    assert (made.name, made.iterations) == NAMES[name]
    assert not made.training
    again = purifiers.create(made.variant)
    assert again.variant == made.variant, "a variant's name makes the purifier again"


@pytest.mark.parametrize(
    ("name", "iterations", "reason"),
    [
        ("ncsi", 1, "ncsi: no such purifier; there are bilateral, bits,"),
        ("ncsi", 1, "did you mean ncis?"),
        ("jpeg:50+ncsi:4", 1, "ncsi: no such purifier"),
        ("", 1, "(nothing): no such purifier"),
        ("jpeg+", 1, "(nothing): no such purifier"),
        ("jpeg:", 1, "jpeg:: nothing stands after the colon; write jpeg[:QUALITY], by default 50"),
        ("jpeg:0", 1, "jpeg:0: QUALITY must be a whole number from 1 to 95, got '0'"),
        ("jpeg:96", 1, "QUALITY"),
        ("jpeg:high", 1, "got 'high'; write jpeg[:QUALITY]"),
        ("jpeg:50.5", 1, "whole number"),
        ("jpeg:50,2", 1, "'50,2' is more than it takes"),
        ("gaussian:4", 1, "KERNEL must be an odd number from 1 to 1001, got '4'; write gaussian[:KERNEL,SIGMA]"),
        ("gaussian:5,0", 1, "SIGMA"),
        ("gaussian:5,nan", 1, "SIGMA"),
        ("gaussian:5,inf", 1, "SIGMA"),
        ("gaussian:5,", 1, "SIGMA must be a number from 0.05 to 500, got ''"),
        ("gaussian:5,1/2x", 1, "got '1/2x'"),
        ("bits:9", 1, "DEPTH"),
        ("median:2", 1, "SIZE must be an odd number"),
        ("bilateral:5,0.1,x", 1, "SIGMA_SPACE"),
        ("tv:0", 1, "WEIGHT"),
        ("nlm:-1", 1, "STRENGTH"),
        ("wavelet:a", 1, "STRENGTH"),
        ("crop-resize:1.1", 1, "SHARE"),
        ("resize-pad:0", 1, "SMALLEST"),
        ("gaussian", 0, "gaussian: iterations must be at least 1"),
        ("gaussian/0", 1, "iterations must be at least 1"),
        ("gaussian/1001", 1, "passes must be at most 1000"),
        ("gaussian/2", 3, "its passes are given twice, 2 and 3"),
        ("ncis:4/2", 1, "its passes are given twice"),
        ("jpeg:50+gaussian", 2, "jpeg:50+gaussian: a chain takes no iterations"),
        ("ncis:missing.safetensors", 1, "ncis:missing.safetensors: no file missing.safetensors"),
        ("jpeg+ncis:./a+b/c++/x.y.safetensors/4", 1, "no file a+b/c++/x.y.safetensors"),
        ("ncis:folder/weights.bin", 1, "no file folder/weights.bin"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(name: str, iterations: int, reason: str) -> None:
    with pytest.raises(ApibenchError) as caught:
        purifiers.create(name, iterations)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_weights_are_called_by_what_they_are(tmp_path: Path) -> None:
    files = {
        "ncis": weights(tmp_path / "a.safetensors"),
        "bsn": weights(tmp_path / "b.safetensors", kernel=1),
        "ncis-affine": weights(tmp_path / "c.safetensors", form="affine"),
    }
    x = torch.rand(1, 3, 20, 21)
    for kind, own in files.items():
        for name, file in files.items():
            if name == kind:
                purifier = purifiers.create(f"{kind}:{file}/2")
                assert purifier.variant.startswith(f"{kind}:{file.stem}#")
                assert purifier.iterations == 2
                assert "+" not in purifier.name  # it would read as a chain in a variant
                assert purifier(x).shape == x.shape
                chain = purifiers.create(f"jpeg:50+{kind}:{file}/3+bits:5")
                assert [part.iterations for part in chain.parts] == [1, 3, 1]  # type: ignore[attr-defined]
            else:
                with pytest.raises(ApibenchError, match=f"holds weights of {name}, not of {kind}; name it {name}:"):
                    purifiers.create(f"{kind}:{file}")
        assert own.is_file()


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    header = '{"format": "blindspot-1", "network": {"layers": 3, "filters": 8}, "smoothing": {}}'
    save_file({"a": torch.zeros(1)}, tmp_path / "shapes.safetensors", metadata={"apibench": header})
    save_file({"a": torch.zeros(1)}, tmp_path / "list.safetensors", metadata={"apibench": "[]"})
    odd = '{"format": "blindspot-1", "network": {}, "smoothing": {}, "training": []}'
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata={"apibench": odd})
    for name, reason in (
        ("text", "not readable"),
        ("other", "not the weights"),
        ("shapes", "do not fit"),
        ("list", "not the weights"),
        ("odd", "do not fit"),
    ):
        with pytest.raises(ApibenchError) as caught:
            purifiers.create(f"ncis:{tmp_path / name}.safetensors", 1)
        assert reason in str(caught.value)
        assert name in str(caught.value)


def test_what_describes_them_is_true() -> None:
    kinds = purifiers.describe()
    assert [kind.name for kind in kinds] == purifiers.names()
    assert {"gaussian", "ncis", "bsn", "ncis-affine", "jpeg", "bits", "median", "bilateral"} <= {*purifiers.names()}
    assert {"tv", "nlm", "wavelet", "crop-resize", "resize-pad"} <= {*purifiers.names()}
    for kind in kinds:
        assert kind.paper
        assert kind.does
        if kind.weights and not (registry.data.root() / kind.weights).is_file():
            continue
        made = purifiers.create(kind.name)
        assert (made.differentiable, made.random) == (kind.differentiable, kind.random), kind.name
        if not kind.weights:
            assert purifiers.create(f"{kind.name}:{kind.default}").name == f"{kind.name}:{kind.default}"


def test_anyone_can_register_one_but_not_in_anothers_name() -> None:
    purifiers.register(SAME)
    purifiers.register(SAME)
    assert "same" in purifiers.names()
    x = torch.rand(1, 3, 4, 5)
    assert torch.allclose(purifiers.create("same:0.5+same", 1)(x), 0.5 * x)
    for name in ("same", "jpeg"):
        with pytest.raises(ApibenchError, match=f"{name}: there is a purifier of this name already"):
            purifiers.register(Kind(name, "other", "none", Same))
    with pytest.raises(ValueError, match="small letters"):
        Kind("a+b", "x", "y", Same)


def test_a_package_can_bring_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(*lines: str) -> None:
        made = [importlib.metadata.EntryPoint(*line.split("="), registry._kinds.group) for line in lines]
        monkeypatch.setattr(plugins, "entry_points", lambda group: made)

    points(f"same={__name__}:SAME", f"wrong={__name__}:SAME", "gone=no_such_module:x")
    assert {"same", "wrong", "gone"} <= {*purifiers.names()}
    assert purifiers.create("same:2/2").variant == "same:2/2"
    with pytest.raises(ApibenchError, match=r"wrong: .*SAME is not the Kind of that name"):
        purifiers.create("wrong")
    with pytest.raises(ApibenchError, match=r"gone: cannot be loaded \(ModuleNotFoundError"):
        purifiers.create("gone")
    with pytest.raises(ApibenchError, match="already"):
        purifiers.register(SAME)
    points(f"jpeg={__name__}:SAME")
    with pytest.raises(ApibenchError, match="jpeg: more than one purifier has this name"):
        purifiers.create("jpeg")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for library, name in (("kornia.filters", "median"), ("skimage.restoration", "tv"), ("pywt", "wavelet")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ApibenchError, match=f"{name}: {name} cannot be used here: .*{library}"):
            purifiers.create(name)


def test_the_command_lists_them() -> None:
    table = CliRunner().invoke(command, [])
    assert table.exit_code == 0
    assert "`jpeg[:QUALITY]`" in table.output
    assert "arXiv 1704.01155" in table.output
    rows: list[dict[str, Any]] = json.loads(CliRunner().invoke(command, ["--json"]).output)
    assert [row["name"] for row in rows] == purifiers.names()
    jpeg = next(row for row in rows if row["name"] == "jpeg")
    assert (jpeg["argument"], jpeg["default"], jpeg["differentiable"], jpeg["random"]) == (
        "QUALITY",
        "50",
        False,
        False,
    )


def test_names_and_the_table_need_no_torch() -> None:
    code = (
        "import sys; from apibench import purifiers; from apibench.commands.purifiers import purifiers as command\n"
        "purifiers.describe(); print([m for m in ('torch', 'kornia', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
