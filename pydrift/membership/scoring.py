"""From a target and its shadows to the scores of all attacks: the steps of a membership audit that query models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pydrift.core.checks import check_seed
from pydrift.core.errors import UsageError
from pydrift.core.progress import Progress
from pydrift.data import LabelledImages, as_member_mask
from pydrift.membership.attack import Attack, DistanceAttack
from pydrift.membership.registry import select_attacks
from pydrift.membership.shadow_selection import SelectedShadows
from pydrift.models.classifier import Classifier, choose_device, freeze
from pydrift.models.intake import AuditedModel, check_num_classes
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import ShadowBank, train_shadows
from pydrift.shadows.statistics import Statistics, check_finite, check_varied, measure, view
from pydrift.training import Train


@dataclass(frozen=True)
class AuditSettings:
    """What is asked for: the attacks by name, the queries, and the error rates of the intervals and bounds."""

    attacks: Mapping[str, Attack]
    queries: tuple[str, ...]
    alpha: float
    delta: float
    seed: int

    @classmethod
    def make(
        cls,
        attacks: Sequence[str] | Mapping[str, Attack],
        queries: Sequence[str],
        alpha: float,
        delta: float,
        seed: int,
    ) -> AuditSettings:
        """UsageError for unknown attacks, no query, or a number out of range."""
        selected = select_attacks(attacks, seed)
        if not 0 < alpha < 1 or not 0 <= delta < 1:
            raise UsageError(f"alpha must lie between 0 and 1 and delta in [0, 1), got {alpha:g} and {delta:g}")
        check_seed(seed)
        if not queries:
            raise UsageError("queries must name at least one way to show the images")
        return cls(selected, tuple(queries), alpha, delta, seed)

    @property
    def posterior(self) -> bool:
        """Whether an attack needs the probabilities of all classes."""
        return any(attack.needs.posterior for attack in self.attacks.values())

    def num_shadows(self, asked: int) -> int:
        """How many shadows to train: `asked`, or 0 if no attack needs any. UsageError if too few or an odd number."""
        needs = {name: max(a.needs.shadows_in, a.needs.shadows_out) for name, a in self.attacks.items()}
        name = max(needs, key=lambda name: needs[name])
        if needs[name] == 0:
            return 0
        if asked % 2:
            raise UsageError(f"complementary halves need an even number of shadows, got {asked}")
        if asked < 2 * needs[name]:
            raise UsageError(
                f"{name} needs at least {2 * needs[name]} shadows: {needs[name]} trained on each image and "
                f"{needs[name]} not; got {asked}"
            )
        return asked


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """The images that every attack scores.

    images  N labelled images
    member  bool [N]: whether the target was trained on image n
    """

    images: LabelledImages
    member: NDArray[np.bool_]

    @classmethod
    def make(cls, images: LabelledImages, members: ArrayLike, queries: Sequence[str]) -> ScoredImages:
        """InputRefused where `members` names no images or all; UsageError for a query that does not fit the images."""
        for query in queries:
            view(images.x[:1], query)  # refuses an unknown query before any work
        return cls(images, as_member_mask(members, images))

    @property
    def y(self) -> NDArray[np.int64]:
        """The labels: int64 [N]."""
        return self.images.y.numpy()


@dataclass(frozen=True, eq=False)
class Target:
    """The model under attack: where it comes from, and the classifier that answers queries."""

    audited: AuditedModel
    classifier: Classifier

    @classmethod
    def make(cls, audited: AuditedModel, images: LabelledImages, device: str | None) -> Target:
        """InputRefused where the model does not classify these images into as many classes."""
        classifier = freeze(audited.module, images.input_shape, choose_device(device), "target")
        check_num_classes(classifier.num_classes, "the target", images.num_classes, images.source)
        return cls(audited, classifier)


@dataclass(frozen=True)
class AuditCase:
    """All that a membership audit is about: what is asked, of which images, of which model."""

    settings: AuditSettings
    scored: ScoredImages
    target: Target


@dataclass(frozen=True, eq=False)
class ShadowSource:
    """Where the shadows come from: from `bank`, or else from training `count` of them (see `pydrift.train_shadows`).

    recipe, train  how the target was trained, as far as that is known
    """

    bank: ShadowBank | None
    count: int
    recipe: TrainingRecipe | None
    train: Train | None
    block: int | None
    device: str | None
    resume_dir: Path | None

    def train_bank(self, case: AuditCase, progress: Progress) -> ShadowBank:
        """Trains `count` models like the target on complementary halves of the images."""
        return train_shadows(
            case.target.audited,
            case.scored.images,
            self.count,
            recipe=self.recipe or TrainingRecipe(),
            train=self.train,
            seed=case.settings.seed,
            block=self.block,
            device=self.device,
            progress=progress,
            resume_dir=None if self.resume_dir is None else self.resume_dir / "shadows",
        )


@dataclass(frozen=True, eq=False)
class Answers:
    """What the models answered about every image: the target (K = 1), and the shadows in the order of `selected`."""

    target: Statistics
    shadows: Statistics
    selected: SelectedShadows


def ask_target(case: AuditCase, progress: Progress) -> Statistics:
    """The target's answers. InputRefused where they are not finite, or the same for every image."""
    images, settings = case.scored.images, case.settings
    progress.phase("asking the target", len(settings.queries))
    answers = measure(
        [case.target.classifier],
        images.x,
        images.y,
        queries=settings.queries,
        posterior=settings.posterior,
        advance=progress.advance,
    )
    check_finite(answers, ["target"])
    check_varied(answers, case.scored.y, "target")
    return answers


def ask_shadows(case: AuditCase, selected: SelectedShadows, device: str | None, progress: Progress) -> Statistics:
    """The answers of the selected shadows, of which there is at least one. InputRefused where they are not finite."""
    assert selected.bank is not None
    images, settings = case.scored.images, case.settings
    progress.phase("asking the shadows", len(settings.queries) * len(selected.kept))
    answers = selected.bank.statistics(
        images.x,
        images.y,
        chosen=selected.kept.tolist(),
        queries=settings.queries,
        posterior=settings.posterior,
        device=device,
        advance=progress.advance,
    )
    check_finite(answers, [f"shadow {k}" for k in selected.kept])
    return answers


def run_attacks(case: AuditCase, answers: Answers, progress: Progress) -> NDArray[np.float64]:
    """The score of every image by every attack: float64 [attacks, N], the higher the more likely a member."""
    attacks, scored = case.settings.attacks, case.scored
    progress.phase("attacking", len(attacks))
    scores = np.empty((len(attacks), len(scored.images)))
    target = answers.target
    for row, attack in enumerate(attacks.values()):
        if isinstance(attack, DistanceAttack):
            distance = attack.distances(case.target.classifier, scored.images.x, scored.images.y)
            target = replace(target, distance=distance)
        scores[row] = attack.fit(answers.shadows, answers.selected.member, scored.y).score(target)
        progress.advance()
    return scores
