"""An attack for tensors: made once, called with a batch, as in torchattacks or foolbox."""

from __future__ import annotations

from collections.abc import Sequence

from apibench import defaults
from apibench._torch import torch
from apibench.attacks.catalogue import GIVEN, LINF, UNTARGETED
from apibench.attacks.loop import AttackSettings, attack, generator
from apibench.attacks.surrogates import Surrogates
from apibench.classifiers import Classifier, load_all
from apibench.errors import ApibenchError
from apibench.imageset import pixels_sha256
from apibench.pixels import LEVELS, to_pixels

Tensor = torch.Tensor


class Attack:
    """Adversarial tensors from an ensemble of classifiers: ``adversarial = Attack(epsilon=8)(x, labels)``.

    ``name``: parts joined by hyphens, as ``apibench attacks`` lists them (but ``admix``, which needs a whole set).
    ``surrogates``: classifiers, or their names. ``epsilon``: whole levels of 255 (16, unless told), or with ``norm="l2"`` the
    radius for pixels in [0, 1]. ``targeted``: towards the labels instead of away from them. ``device``: where classifiers that
    are named are loaded. Raises ApibenchError for what is no attack, or a classifier that cannot be loaded.
    """

    def __init__(
        self,
        name: str = defaults.ATTACK,
        surrogates: Sequence[str] | Sequence[Classifier] = defaults.SURROGATES,
        *,
        epsilon: float | None = None,
        steps: int = 10,
        norm: str = LINF,
        targeted: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if epsilon is None and norm != LINF:
            raise ApibenchError(f"norm {norm}: give epsilon, the radius for pixels in [0, 1]: 3 to 10 for a photograph")
        bound, aim = 16 if epsilon is None else epsilon, GIVEN if targeted else UNTARGETED
        try:
            self.settings = AttackSettings(name, bound, steps, seed, norm, aim)
        except ValueError as error:
            raise ApibenchError(f"attack: {error}") from error
        given = [one for one in surrogates if isinstance(one, Classifier)]
        self.surrogates = Surrogates(given or load_all([one for one in surrogates if isinstance(one, str)], device))

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, 3, H, W) pixels in [0, 1] and (N,) classes -> (N, 3, H, W), within the bound of ``x`` in whole levels of 255.

        ``x`` is rounded to whole levels first, as a file would be. What is drawn for an image depends on its pixels and the seed
        alone, and nothing on the others of its batch.
        """
        whole = x.mul(LEVELS).round().clamp(0, LEVELS).div(LEVELS)
        generators = [generator(self.settings.seed, pixels_sha256(to_pixels(one[None]))) for one in whole]
        return attack(whole, labels, self.surrogates, self.settings, generators).images
