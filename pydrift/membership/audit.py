"""The membership audit: how well can somebody who queries a model tell which images it was trained on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pydrift.core.errors import InputRefused
from pydrift.core.manifest import refuse_manifest_folder
from pydrift.core.progress import Clock, Progress, Silent
from pydrift.core.tensors import tensors_digest
from pydrift.data import take_images
from pydrift.membership.attack import Attack
from pydrift.membership.evaluation import AttackResult, evaluate
from pydrift.membership.reasons import DEFAULT_RECIPE_USED, bank_mismatches, figure_caveats
from pydrift.membership.registry import DEFAULT_ATTACKS
from pydrift.membership.result import MembershipProvenance, MembershipReport, Population, ShadowSummary
from pydrift.membership.scoring import (
    Answers,
    AuditCase,
    AuditSettings,
    ScoredImages,
    ShadowSource,
    Target,
    ask_shadows,
    ask_target,
    run_attacks,
)
from pydrift.membership.shadow_selection import SelectedShadows, select_shadows
from pydrift.models.classifier import exact_arithmetic
from pydrift.models.intake import Model, as_audited_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops.environment import describe_environment
from pydrift.shadows import ShadowBank
from pydrift.training import Train


def membership_audit(
    model: Model,
    data: Any,
    members: ArrayLike,
    *,
    attacks: Sequence[str] | Mapping[str, Attack] = DEFAULT_ATTACKS,
    shadows: int = 16,
    bank: ShadowBank | None = None,
    queries: Sequence[str] = ("plain",),
    alpha: float = 0.05,
    delta: float = 0.0,
    seed: int = 0,
    recipe: TrainingRecipe | None = None,
    train: Train | None = None,
    block: int | None = None,
    arch: str | None = None,
    device: str | None = None,
    resume_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> MembershipReport:
    """Runs every attack on `model` and says how well each one tells members from non-members.

    model       the target: an nn.Module that maps float32 [N, C, H, W] in [0, 1] to logits [N, classes], or a model
                file
    data        images of which some were used to train the target and the others were not: LabelledImages, (x, y), any
                iterable of (x, y), or a source such as "cifar10:DIR"
    members     the images that the target was trained on: integer indices into `data`, or a boolean mask [N]
    attacks     names in pydrift.membership.ATTACKS, by default all but "boundary", which takes many queries. Or attacks
                with your own settings, by a name of your choice: {"rmia-1.5": Rmia(gamma=1.5)}
    shadows     how many models like the target to train on complementary halves of the data: an even number. Each
                image is then IN for one half of the shadows and OUT for the other. None are trained if no attack needs
                any
    bank        shadows that were trained before, on draws of exactly this data. The target itself is left out, and so
                is any shadow that was trained on exactly its members or exactly its non-members
    queries     how the images are shown to the models (see pydrift.shadows.statistics.view). LiRA and RMIA use all
                queries, the other attacks the first. Use "flip" only if the target's training mirrored images
    alpha       intervals have confidence 1 - alpha. The epsilon bounds of all attacks together have it, too
    delta       of the epsilon bounds, in [0, 1)
    seed        of everything random, in 0..2**63 - 1
    recipe      how to train the shadows; default: the recipe in the target's file, else TrainingRecipe(). With a bank:
                how the target was trained, to be compared with the bank's recipe
    train       your own training instead: (x, y, seed) -> nn.Module of the target's architecture
    block       how many shadows to train side by side (see pydrift.train_shadows); it changes no result
    arch        architecture of a model file that does not name its own
    device      "cpu", "cuda" or "cuda:1"; default: a CUDA device if torch sees one
    resume_dir  folder for finished shadows, from which a killed run goes on

    UsageError: unknown attacks, or fewer shadows than an attack needs. InputRefused: wrong members, or a target of
    other images or classes. The same seed on the same machine gives the same figures.
    Source of the audit's form: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022.
    """
    settings = AuditSettings.make(attacks, queries, alpha, delta, seed)
    count = settings.num_shadows(shadows) if bank is None else 0
    images = take_images(data)
    scored = ScoredImages.make(images, members, settings.queries)
    if bank is not None and bank.plan.data_sha256 != images.sha256:
        raise InputRefused(f"bank: its shadows were trained on other data than {images.source}")
    audited = as_audited_model(model, "target", arch)
    case = AuditCase(settings, scored, Target.make(audited, images, device))
    folder = None if resume_dir is None else Path(resume_dir)
    source = ShadowSource(bank, count, recipe or audited.recipe, train, block, device, folder)
    clock = Clock()
    with exact_arithmetic(), progress or Silent() as shown:
        answers = _ask_models(case, source, clock, shown)
        with clock("attack"):
            scores = run_attacks(case, answers, shown)
    results = _evaluate(case, scores)
    return MembershipReport(
        attacks=results,
        alpha=alpha,
        delta=delta,
        reasons=(*_resemblance(case, source), *figure_caveats(audited, scored.member, results, answers.selected)),
        population=_population(case, answers),
        shadows=_shadow_summary(answers.selected),
        provenance=_provenance(case, answers.selected, clock.seconds),
        scores=scores,
        member=scored.member,
        y=scored.y,
    )


def _ask_models(case: AuditCase, source: ShadowSource, clock: Clock, progress: Progress) -> Answers:
    """Trains the shadows if needed, and asks the target and the shadows about every image."""
    audited, member, attacks = case.target.audited, case.scored.member, case.settings.attacks
    # What can be refused without asking a model is refused before that.
    selected = select_shadows(source.bank, audited, member, attacks) if source.count == 0 else None
    if selected is None and source.resume_dir is not None:
        refuse_manifest_folder(source.resume_dir)
    with clock("ask target"):
        target = ask_target(case, progress)
    if selected is None:
        with clock("train shadows"):
            bank = source.train_bank(case, progress)
        selected = select_shadows(bank, audited, member, attacks)
    shadows = target.models(slice(0, 0))
    if len(selected.kept):
        with clock("ask shadows"):
            shadows = ask_shadows(case, selected, source.device, progress)
    return Answers(target, shadows, selected)


def _evaluate(case: AuditCase, scores: NDArray[np.float64]) -> tuple[AttackResult, ...]:
    """The figures of each attack. InputRefused where no attack tells any image from another."""
    settings, scored = case.settings, case.scored
    results = tuple(
        evaluate(
            name,
            attack.title,
            scores[row],
            scored.member,
            scored.y,
            scored.images.num_classes,
            alpha=settings.alpha,
            epsilon_alpha=settings.alpha / len(settings.attacks),
            delta=settings.delta,
            seed=settings.seed,
        )
        for row, (name, attack) in enumerate(settings.attacks.items())
    )
    if all(result.constant for result in results):
        raise InputRefused(
            f"target: every attack ({', '.join(settings.attacks)}) gives all images the same score, so the audit shows "
            "nothing"
        )
    return results


def _resemblance(case: AuditCase, source: ShadowSource) -> Iterator[str]:
    """How the shadows differ, or may differ, from the target."""
    if source.bank is not None:
        yield from bank_mismatches(source.bank, case.target.audited, source.recipe, source.train)
    elif source.count and not (source.recipe or source.train):
        yield DEFAULT_RECIPE_USED


def _population(case: AuditCase, answers: Answers) -> Population:
    images, member = case.scored.images, case.scored.member
    right = answers.target.prediction[0, 0] == case.scored.y
    loss = answers.target.loss[0, 0].astype(np.float64)
    return Population(
        source=images.source,
        members=int(member.sum()),
        non_members=int((~member).sum()),
        class_names=images.class_names,
        accuracy_members=float(right[member].mean()),
        accuracy_non_members=float(right[~member].mean()),
        loss_members=float(loss[member].mean()),
        loss_non_members=float(loss[~member].mean()),
    )


def _shadow_summary(selected: SelectedShadows) -> ShadowSummary:
    bank, kept = selected.bank, selected.kept
    if bank is None:
        return ShadowSummary(0, "none", ())
    return ShadowSummary(len(kept), bank.plan.draw.describe(bank.plan.images), tuple(bank.accuracy[k] for k in kept))


def _provenance(case: AuditCase, selected: SelectedShadows, seconds: dict[str, float]) -> MembershipProvenance:
    audited, classifier, settings = case.target.audited, case.target.classifier, case.settings
    bank = selected.bank
    return MembershipProvenance(
        **describe_environment(classifier.device),
        path=classifier.path,
        seed=settings.seed,
        target=audited.name,
        target_sha256=audited.sha256,
        data_sha256=case.scored.images.sha256,
        members_sha256=tensors_digest({"member": torch.from_numpy(case.scored.member)}),
        settings={
            "attacks": {name: _numbers_of(attack) for name, attack in settings.attacks.items()},
            "queries": list(settings.queries),
            "recipe": None if bank is None else bank.plan.own_training or asdict(bank.plan.recipe),
        },
        bank=selected.origin,
        seconds=seconds,
    )


def _numbers_of(attack: Attack) -> dict[str, Any]:
    """The numbers that shape an attack, by name."""
    values: dict[str, Any] = asdict(attack) if is_dataclass(attack) and not isinstance(attack, type) else {}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float)}
