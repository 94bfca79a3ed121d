"""Gradient ascent on the class log-probability with image priors.

The idea is MIFace (Fredrikson, Jha, Ristenpart: "Model Inversion Attacks that Exploit Confidence Information and Basic
Countermeasures", CCS 2015) with its published stop rule: stop when the confidence is reached or the cost no longer
falls. Total-variation and L2 priors and the jitter follow DeepInversion (Yin et al., CVPR 2020).
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
from pydrift.core.limits import MAX_JITTER, MAX_STEPS
from pydrift.core.noise import Phase, derived_seed, integers, uniform, words
from pydrift.inversion.gray import GrayData
from pydrift.inversion.repeated import repeat_step
from pydrift.models.arch import FusedModel
from pydrift.models.classifier import Classifier
from pydrift.ops import AscentOptions, ascent_update, invert
from pydrift.ops.reference import roll

# Of a consensus: rounds over all classifiers, steps of each turn, and the factor on the last round's learning rate.
_ROUNDS, _TURN_STEPS, _LAST_RATE = 4, 5, 0.4
_BLOCK = 160  # images per batch: fixed for a model, because the last bits of a convolution may depend on the batch


@dataclass(frozen=True)
class GradientAscent:
    """Ascends log p(class | x) - tv_weight * TV(x) - l2_weight * |x|^2 over images in [0, 1].

    steps                 the most steps of a restart, in 1..1,000,000
    learning_rate         of Adam, in units of the pixel range, > 0
    beta1, beta2, epsilon  of Adam
    tv_weight             of the sum of squared differences between neighbouring pixels, >= 0
    l2_weight             of the sum of squared pixels, >= 0
    jitter                each step rolls the image by up to this many pixels in each direction; None: 2 pixels for
                          images of 28x28, and in proportion for others
    start_contrast        in [0, 1]; starts are 0.5 + start_contrast * uniform(-0.5, 0.5)
    confidence_threshold  a restart stops when its probability of the class reaches this value; above 1: never
    patience              a restart also stops when its cost (1 - probability) has not fallen for this many steps

    UsageError for a value out of range.
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
        if not (1 <= self.steps <= MAX_STEPS and 1 <= self.patience <= MAX_STEPS):
            raise UsageError(
                f"inversion: steps and patience must be in 1..{MAX_STEPS}, got {self.steps} and {self.patience}"
            )
        if self.jitter is not None and not 0 <= self.jitter <= MAX_JITTER:
            raise UsageError(f"inversion: jitter must be in 0..{MAX_JITTER}, got {self.jitter}")
        if not (
            self.learning_rate > 0 and self.tv_weight >= 0 and self.l2_weight >= 0 and 0 <= self.start_contrast <= 1
        ):
            raise UsageError(
                "inversion: learning_rate > 0, tv_weight >= 0, l2_weight >= 0 and 0 <= start_contrast <= 1, got "
                f"{self.learning_rate:g}, {self.tv_weight:g}, {self.l2_weight:g} and {self.start_contrast:g}"
            )

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    def invert(self, classifier: Classifier, restarts: int, seed: int) -> GrayData:
        """Gray data of every class: `restarts` images each.

        Restart r of class c starts from the same noise for every model. So the gray data of two models differs by what
        they have learnt, and not by the starts.
        """
        return self.invert_all([classifier], restarts, seed)[0]

    def invert_all(self, classifiers: Sequence[Classifier], restarts: int, seed: int) -> list[GrayData]:
        """`invert` of each classifier. Lowered networks of one structure share a native call, with the same results."""
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
        """Images that all classifiers assign to the same class: float32 [classes, restarts, C, H, W] in [0, 1].

        The classifiers take turns: each makes a few ascent steps on the images of the one before. The last round has
        smaller steps. A feature that only one model sees is undone by the others. What is left is also seen by models
        that took no part.
        """
        shape, classes = classifiers[0].input_shape, classifiers[0].num_classes
        label, restart = _labels_and_restarts(classes, restarts)
        x = self._starts(label, restart, seed, shape).to(classifiers[0].device)
        turn = replace(self, steps=_TURN_STEPS, patience=_TURN_STEPS, confidence_threshold=2.0)
        last = replace(turn, learning_rate=_LAST_RATE * self.learning_rate)
        for number in range(_ROUNDS):
            climb = turn if number < _ROUNDS - 1 else last
            for m, classifier in enumerate(classifiers):
                shifts = derived_seed(seed, Phase.CONSENSUS, number * len(classifiers) + m)
                x = climb._climb(classifier, x, label, restart, shifts)
        return x.view(classes, restarts, *shape).cpu().numpy()

    def _climb(
        self, classifier: Classifier, x: Tensor, label: NDArray[np.int64], restart: NDArray[np.int64], seed: int
    ) -> Tensor:
        """Where one classifier's ascent from x [N, C, H, W] ends. x itself may change."""
        if classifier.fused is not None:
            self._ascend_fused([classifier.fused], x, label, restart, seed)
            return x
        size = classifier.at_once(_BLOCK)
        blocks = [slice(i, i + size) for i in range(0, len(x), size)]
        with torch.inference_mode(False), torch.enable_grad():
            return torch.cat([self._ascend(classifier, x[b], label[b], restart[b], seed)[0] for b in blocks])

    def _invert_fused(
        self, networks: Sequence[FusedModel], device: torch.device, restarts: int, seed: int
    ) -> list[GrayData]:
        """The gray data of networks that differ in their parameters only."""
        shape, classes = networks[0].input_shape, networks[0].num_classes
        label, restart = _labels_and_restarts(classes, restarts)
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
        """Makes the ascent on x [networks * N, C, H, W] in place; returns confidence and steps, [networks * N] each."""

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
            options=self._options(),
        )
        return confidence, steps

    def _invert_generic(self, classifier: Classifier, restarts: int, seed: int) -> GrayData:
        classes = classifier.num_classes
        label, restart = _labels_and_restarts(classes, restarts)
        x = self._starts(label, restart, seed, classifier.input_shape).to(classifier.device)
        size = classifier.at_once(_BLOCK)
        blocked = [slice(i, i + size) for i in range(0, len(label), size)]
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
        """Images [N, C, H, W], confidence [N] and steps [N] of a block of restarts from x, by torch's own gradient."""
        device, shape, x = classifier.device, classifier.input_shape, x.clone()
        shift = self._shifts(label, restart, seed, shape).to(device)  # [steps, N, 2]
        labels = torch.from_numpy(label).to(device)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        best_cost = torch.full((len(label),), torch.inf, device=device)
        steps_without_improvement = torch.zeros(len(label), dtype=torch.int32, device=device)
        steps = torch.zeros(len(label), dtype=torch.int32, device=device)
        active = torch.ones(len(label), dtype=torch.bool, device=device)
        options = self._options()
        count = torch.zeros(1, dtype=torch.int64, device=device)  # the steps done; a CUDA graph can read it here

        def step() -> None:
            now = shift.index_select(0, count)[0]
            log_probability, gradient = classifier.log_probability_gradient(roll(x, now), labels)
            gradient = roll(gradient, -now)
            ascent_update(
                x,
                gradient,
                first,
                second,
                log_probability,
                best_cost,
                steps_without_improvement,
                steps,
                active,
                options=options,
            )
            count.add_(1)

        for _ in repeat_step(step, self.steps, device):
            if not active.any():
                break
        probability = classifier.logits(x).softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return x, probability, steps

    def _options(self) -> AscentOptions:
        """The settings of one ascent step, as the ops take them."""
        return AscentOptions(
            optimizer="adam",
            learning_rate=self.learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            tv_weight=self.tv_weight,
            l2_weight=self.l2_weight,
            lower=0.0,
            upper=1.0,
            confidence_threshold=self.confidence_threshold,
            patience=self.patience,
        )

    def _starts(
        self, label: NDArray[np.int64], restart: NDArray[np.int64], seed: int, shape: tuple[int, int, int]
    ) -> Tensor:
        """The start images: float32 [N, C, H, W] in [0, 1]."""
        noise = uniform(words(seed, Phase.START, int(np.prod(shape)), label=label, restart=restart))
        starts = 0.5 + self.start_contrast * (noise - 0.5)
        return torch.from_numpy(starts.astype(np.float32)).view(len(label), *shape)

    def _jitter(self, input_shape: tuple[int, int, int]) -> int:
        return round(min(input_shape[1:]) / 14) if self.jitter is None else self.jitter

    def _shifts(
        self, label: NDArray[np.int64], restart: NDArray[np.int64], seed: int, shape: tuple[int, int, int]
    ) -> Tensor:
        """How many pixels each image is rolled down and to the right at each step: int64 [steps, N, 2]."""
        jitter = self._jitter(shape)
        step = np.arange(self.steps)[:, None]
        bits = words(seed, Phase.JITTER, 2, label=label[None], restart=restart[None], step=step)
        return torch.from_numpy(integers(bits, -jitter, jitter))


def _labels_and_restarts(classes: int, restarts: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The label and the restart number of every image, class by class: int64 [classes * restarts] each."""
    return np.repeat(np.arange(classes), restarts), np.tile(np.arange(restarts), classes)
