"""Gradient ascent on the class log-probability with image priors.

The idea is MIFace (Fredrikson, Jha, Ristenpart: "Model Inversion Attacks that Exploit Confidence Information and Basic
Countermeasures", CCS 2015) with its stop rule as published: stop once the confidence is reached, or once the cost no
longer falls. Total-variation and L2 priors and the jitter follow DeepInversion (Yin et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.core.noise import Phase, derived_seed, integers, uniform, words
from pydrift.inversion.gray import GrayData
from pydrift.inversion.repeated import repeated
from pydrift.models.arch import FusedModel
from pydrift.models.classifier import Classifier
from pydrift.ops import ascent_update, invert
from pydrift.ops.reference import roll

_AROUND, _TURN, _LAST_RATE = 4, 5, 0.4  # a consensus: times around, steps of each turn, how much smaller the last ones
_BLOCK = 160  # images ascended together: fixed, because a convolution's last bits may depend on the batch


@dataclass(frozen=True)
class GradientAscent:
    """Ascends log p(class | x) - tv_weight * TV(x) - l2_weight * |x|^2 over images in [0, 1].

    steps                 at most
    learning_rate         Adam's, in units of the pixel range
    tv_weight             of the sum of squared differences between neighbouring pixels
    l2_weight             of the sum of squared pixels
    jitter                each step sees the image rolled by up to this many pixels each way; None: 2 at 28 pixels a
                          side, in proportion for others
    start_contrast        starts are 0.5 + start_contrast * uniform(-0.5, 0.5)
    confidence_threshold  a restart stops once its probability of the class reaches this; above 1: never
    patience              ... or once its cost (1 - probability) has not fallen for this many steps
    """

    steps: int = 100
    learning_rate: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    tv_weight: float = 1e-3
    l2_weight: float = 1e-3
    jitter: int | None = None
    start_contrast: float = 0.2
    confidence_threshold: float = 0.9999
    patience: int = 25

    def __post_init__(self) -> None:
        if self.steps < 1 or self.patience < 1:
            raise UsageError(f"inversion: steps and patience must be >= 1, got {self.steps} and {self.patience}")
        if self.jitter is not None and self.jitter < 0:
            raise UsageError(f"inversion: jitter must be >= 0, got {self.jitter}")
        if not (
            self.learning_rate > 0 and self.tv_weight >= 0 and self.l2_weight >= 0 and 0 <= self.start_contrast <= 1
        ):
            raise UsageError(
                "inversion: learning_rate > 0, tv_weight >= 0, l2_weight >= 0 and 0 <= start_contrast <= 1, got "
                f"{self.learning_rate:g}, {self.tv_weight:g}, {self.l2_weight:g} and {self.start_contrast:g}"
            )

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def invert(self, classifier: Classifier, restarts: int, seed: int) -> GrayData:
        """Gray data of every class. Restart r of class c starts from the same noise whatever the model, so that two
        models differ by what they have learnt and not by their starts."""
        return self.invert_all([classifier], restarts, seed)[0]

    def invert_all(self, classifiers: Sequence[Classifier], restarts: int, seed: int) -> list[GrayData]:
        """`invert` of each; lowered networks of one structure share a native call, with the same results."""
        networks = [c.fused for c in classifiers if c.fused is not None]
        if len(networks) == len(classifiers) and len({(n.input_shape, *n.program()) for n in networks}) == 1:
            return self._invert_fused(networks, classifiers[0].device, restarts, seed)
        return [
            self._invert_generic(c, restarts, seed)
            if c.fused is None
            else self._invert_fused([c.fused], c.device, restarts, seed)[0]
            for c in classifiers
        ]

    def consensus(self, classifiers: Sequence[Classifier], restarts: int, seed: int) -> NDArray[np.float32]:
        """Images that all of the classifiers take for their class: float32 [classes, restarts, C, H, W] in [0, 1].

        Each climbs them for a few steps in turn, over and over, the last time around with smaller ones. What one
        model alone would see in an image the others undo; what is left, a model that took no part sees, too.
        """
        shape, classes = classifiers[0].input_shape, classifiers[0].num_classes
        label, restart = _plan(classes, restarts)
        x = self._starts(label, restart, seed, shape).to(classifiers[0].device)
        turn = replace(self, steps=_TURN, patience=_TURN, confidence_threshold=2.0)
        last = replace(turn, learning_rate=_LAST_RATE * self.learning_rate)
        for around in range(_AROUND):
            climb = turn if around < _AROUND - 1 else last
            for m, classifier in enumerate(classifiers):
                shifts = derived_seed(seed, Phase.CONSENSUS, around * len(classifiers) + m)
                x = climb._climbed(classifier, x, label, restart, shifts)
        return x.view(classes, restarts, *shape).cpu().numpy()

    def _climbed(
        self, classifier: Classifier, x: Tensor, label: NDArray[np.int64], restart: NDArray[np.int64], seed: int
    ) -> Tensor:
        """x [N, C, H, W] after all steps of one classifier's ascent from it."""
        if classifier.fused is not None:
            self._ascend_fused([classifier.fused], x, label, restart, seed)
            return x
        blocks = [slice(i, i + _BLOCK) for i in range(0, len(x), _BLOCK)]
        with torch.inference_mode(False), torch.enable_grad():
            return torch.cat([self._ascend(classifier, x[b], label[b], restart[b], seed)[0] for b in blocks])

    def _invert_fused(
        self, networks: Sequence[FusedModel], device: torch.device, restarts: int, seed: int
    ) -> list[GrayData]:
        """Gray data of networks that differ by their parameters only."""
        shape, classes = networks[0].input_shape, networks[0].num_classes
        label, restart = _plan(classes, restarts)
        x = self._starts(label, restart, seed, shape).to(device).repeat(len(networks), 1, 1, 1)
        confidence, steps = self._ascend_fused(networks, x, label, restart, seed)
        images = x.view(len(networks), classes, restarts, *shape).cpu().numpy()
        per_restart = (values.view(len(networks), classes, restarts).cpu().numpy() for values in (confidence, steps))
        return [GrayData(*arrays) for arrays in zip(images, *per_restart, strict=True)]

    def _ascend_fused(
        self,
        networks: Sequence[FusedModel],
        x: Tensor,
        label: NDArray[np.int64],
        restart: NDArray[np.int64],
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Climbs x [networks * N, C, H, W] in place; -> confidence and steps [networks * N]."""

        def ids(values: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(values.astype(np.int32)).to(x.device)

        confidence, _, steps = invert(
            x,
            torch.stack([network.parameters() for network in networks]),
            ids(np.repeat(np.arange(len(networks)), len(label))),
            ids(np.tile(label, len(networks))),
            ids(np.tile(restart, len(networks))),
            program=networks[0].program(),
            seed=seed,
            jitter=self._jitter(networks[0].input_shape),
            max_steps=self.steps,
            **self._ascent(),
        )
        return confidence, steps

    def _invert_generic(self, classifier: Classifier, restarts: int, seed: int) -> GrayData:
        classes = classifier.num_classes
        label, restart = _plan(classes, restarts)
        x = self._starts(label, restart, seed, classifier.input_shape).to(classifier.device)
        blocked = [slice(i, i + _BLOCK) for i in range(0, len(label), _BLOCK)]
        with torch.inference_mode(False), torch.enable_grad():  # whatever mode the caller is in
            blocks = [self._ascend(classifier, x[b], label[b], restart[b], seed) for b in blocked]
        images, confidence, steps = (torch.cat(part).cpu().numpy() for part in zip(*blocks, strict=True))
        return GrayData(
            images.reshape(classes, restarts, *classifier.input_shape),
            confidence.reshape(classes, restarts),
            steps.reshape(classes, restarts),
        )

    def _ascend(
        self, classifier: Classifier, x: Tensor, label: NDArray[np.int64], restart: NDArray[np.int64], seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> images [N, C, H, W], confidence [N], steps [N] of one block of restarts that start at x, by torch's own
        gradient."""
        device, shape, x = classifier.device, classifier.input_shape, x.clone()
        shift = self._shifts(label, restart, seed, shape).to(device)  # [steps, N, 2]
        labels = torch.from_numpy(label).to(device)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        best_cost = torch.full((len(label),), torch.inf, device=device)
        stale = torch.zeros(len(label), dtype=torch.int32, device=device)
        steps = torch.zeros(len(label), dtype=torch.int32, device=device)
        active = torch.ones(len(label), dtype=torch.bool, device=device)
        count = torch.zeros(1, dtype=torch.int64, device=device)  # of the steps done, where a CUDA graph can read it

        def step() -> None:
            now = shift.index_select(0, count)[0]
            log_probability, gradient = classifier.log_probability_gradient(roll(x, now), labels)
            gradient = roll(gradient, -now)
            ascent_update(
                x, gradient, first, second, log_probability, best_cost, stale, steps, active, **self._ascent()
            )
            count.add_(1)

        for _ in repeated(step, self.steps, device):
            if not active.any():
                break
        probability = classifier.logits(x).softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return x, probability, steps

    def _ascent(self) -> dict[str, Any]:
        """The settings of one ascent step, as the operations take them."""
        return {
            "optimizer": "adam",
            "learning_rate": self.learning_rate,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "epsilon": self.epsilon,
            "tv_weight": self.tv_weight,
            "l2_weight": self.l2_weight,
            "lower": 0.0,
            "upper": 1.0,
            "confidence_threshold": self.confidence_threshold,
            "patience": self.patience,
        }

    def _starts(
        self, label: NDArray[np.int64], restart: NDArray[np.int64], seed: int, shape: tuple[int, int, int]
    ) -> Tensor:
        """float32 [N, C, H, W]"""
        noise = uniform(words(seed, Phase.START, int(np.prod(shape)), label=label, restart=restart))
        starts = 0.5 + self.start_contrast * (noise - 0.5)
        return torch.from_numpy(starts.astype(np.float32)).view(len(label), *shape)

    def _jitter(self, input_shape: tuple[int, int, int]) -> int:
        return round(min(input_shape[1:]) / 14) if self.jitter is None else self.jitter

    def _shifts(
        self, label: NDArray[np.int64], restart: NDArray[np.int64], seed: int, shape: tuple[int, int, int]
    ) -> Tensor:
        """int64 [steps, N, 2]: how far each image is rolled down and to the right at each step."""
        jitter = self._jitter(shape)
        step = np.arange(self.steps)[:, None]
        bits = words(seed, Phase.JITTER, 2, label=label[None], restart=restart[None], step=step)
        return torch.from_numpy(integers(bits, -jitter, jitter))


def _plan(classes: int, restarts: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label and restart of every image: class by class."""
    return np.repeat(np.arange(classes), restarts), np.tile(np.arange(restarts), classes)
