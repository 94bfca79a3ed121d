"""The membership audit: how well can somebody who asks a model tell which images it was trained on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pydrift.core.checks import check_seed
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.progress import Clock, Progress, Silent
from pydrift.core.store import refuse_manifest_folder, tensors_digest
from pydrift.data import LabelledImages, as_member_mask, take_images
from pydrift.membership import DEFAULT, Attack, BoundaryDistance, select_attacks
from pydrift.membership.evaluation import FPRS, AttackResult, evaluate
from pydrift.membership.result import MembershipProvenance, MembershipReport, Population, ShadowSummary
from pydrift.membership.shadow_selection import check_enough, kept_shadows, left_out, origin_of, shadow_mismatches
from pydrift.models.classifier import Classifier, choose_device, exact_arithmetic, freeze
from pydrift.models.intake import AuditedModel, Model, as_audited_model, check_num_classes
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops import native_status
from pydrift.shadows import ShadowBank, train_shadows
from pydrift.shadows.statistics import Statistics, check_finite, check_varied, measure, view
from pydrift.training import Train
from pydrift.version import __version__


def membership_audit(
    model: Model,
    data: Any,
    members: ArrayLike,
    *,
    attacks: Sequence[str] | Mapping[str, Attack] = DEFAULT,
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
    """Attacks `model` with every attack and says how well each tells members from non-members.

    model     the target: an nn.Module that maps float32 [N, C, H, W] in [0, 1] to logits, or a model file
    data      the population: images of which some were used to train the target and the others were not.
              LabelledImages, (x, y), any iterable of (x, y), or a source such as "cifar10:DIR"
    members   which ones: integer indices into `data`, or a boolean mask [N]
    attacks   names in pydrift.membership.ATTACKS; "boundary" must be asked for, since it takes many queries. Or attacks
              (Lira, Rmia, Shokri, BoundaryDistance) with settings of your own by name: {"rmia-1.5": Rmia(gamma=1.5)}
    shadows   models of the target's kind, trained on complementary halves of the population: an even number. Each
              image is then IN for one half of them and OUT for the other. None are trained if no attack needs any
    bank      shadows that are there already, trained on draws of the very same population. The target itself, and any
              shadow that was trained on exactly its members or exactly on the others, is left out
    queries   how the images are shown (see pydrift.shadows.statistics.view); LiRA and RMIA use all of them, the others the
              first. Show what the target was trained with: "flip" only where images were mirrored
    alpha     intervals and epsilon bounds have confidence 1 - alpha; the epsilon bounds of all attacks together
    delta     of the epsilon bounds
    recipe    how to train the shadows; default: the one recorded in the target's file, else TrainingRecipe(). Where a
              bank is given: how the target was trained, which is compared with the bank's
    train     or the user's own training, (x, y, seed) -> nn.Module of the target's architecture
    block     shadows that are trained side by side (see pydrift.train_shadows), which changes no result
    resume_dir  folder for finished shadows, so that a killed run goes on where it was

    UsageError: unknown attacks, fewer shadows than an attack needs. InputRefused: members that are no indices, a target
    of other images or classes. The same seed on the same machine gives the same figures.
    """
    suite = select_attacks(attacks, seed)
    count = _needed(suite, shadows) if bank is None else 0
    if not 0 < alpha < 1 or not 0 <= delta < 1:
        raise UsageError(f"alpha must lie between 0 and 1 and delta in [0, 1), got {alpha:g} and {delta:g}")
    check_seed(seed)
    images = take_images(data)
    member = as_member_mask(members, images)
    if bank is not None and bank.plan.data_sha256 != images.sha256:
        raise InputRefused(f"bank: its shadows were trained on other data than {images.source}")
    if not queries:
        raise UsageError("queries must name at least one way to show the images")
    for query in queries:
        view(images.x[:1], query)  # refuses unknown ones before the work
    subject = as_audited_model(model, "target", arch)
    target = freeze(subject.module, images.input_shape, choose_device(device), "target")
    check_num_classes(target.num_classes, "the target", images.num_classes, images.source)
    known, clock = recipe or subject.recipe, Clock()
    likeness = [] if bank is None else list(shadow_mismatches(bank, subject, known, train))
    if count and not (known or train):
        likeness = [
            "nothing says how the target was trained, so the shadows were trained by pydrift's default recipe; the "
            "better they resemble the target, the stronger the attacks (pass recipe= or train=)"
        ]
    asking: dict[str, Any] = {"queries": queries, "posterior": any(a.needs.posterior for a in suite.values())}
    with exact_arithmetic(), progress or Silent() as told:
        if count == 0:
            weights, kept = _kept(suite, bank, subject, member)
        elif resume_dir is not None:
            refuse_manifest_folder(resume_dir)
        with clock("ask target"):
            answers = _ask_target(target, images, asking, told)
        if count:
            with clock("train shadows"):
                bank = train_shadows(
                    subject, images, count, recipe=known or TrainingRecipe(), train=train, seed=seed, block=block,
                    device=device, progress=told, resume_dir=None if resume_dir is None else Path(resume_dir) / "shadows",
                )  # fmt: skip
            weights, kept = _kept(suite, bank, subject, member)
        shadow, shadow_member = answers.models(slice(0, 0)), member[None][:0]
        if bank is not None and len(kept):
            with clock("ask shadows"):
                shadow, shadow_member = _ask_shadows(bank, kept, images, asking, device, told), bank.member[kept]
        with clock("attack"):
            told.phase("attacking", len(suite))
            scores = np.empty((len(suite), len(images)))
            for row, score in enumerate(_scores(suite, target, answers, shadow, shadow_member, images)):
                scores[row] = score
                told.advance()
    results = tuple(
        evaluate(
            name, attack.title, scores[row], member, images.y.numpy(), images.num_classes,
            alpha=alpha, epsilon_alpha=alpha / len(suite), delta=delta, seed=seed,
        )
        for row, (name, attack) in enumerate(suite.items())
    )  # fmt: skip
    if all(result.constant for result in results):
        raise InputRefused(
            f"target: all images get the same score from every attack ({', '.join(suite)}), so nothing can be told"
        )
    return MembershipReport(
        attacks=results,
        alpha=alpha,
        delta=delta,
        reasons=(*likeness, *_reasons(subject, member, results, bank, kept)),
        population=_population(images, member, answers),
        shadows=ShadowSummary(0, "none", ()) if bank is None else _summary(bank, kept),
        provenance=MembershipProvenance(
            pydrift=__version__,
            torch=torch.__version__,
            device=str(target.device),
            native=native_status().describe(target.device.type),
            path=target.path,
            seed=seed,
            target=subject.name,
            target_sha256=subject.sha256,
            data_sha256=images.sha256,
            members_sha256=tensors_digest({"member": torch.from_numpy(member)}),
            settings={
                "attacks": {name: _settings(attack) for name, attack in suite.items()},
                "queries": list(queries),
                "recipe": None if bank is None else bank.plan.own_training or asdict(bank.plan.recipe),
            },
            bank=None if bank is None else origin_of(bank, weights),
            seconds=clock.seconds,
        ),
        scores=scores,
        member=member,
        y=images.y.numpy(),
    )


def _needed(suite: Mapping[str, Attack], shadows: int) -> int:
    """How many shadows to train: 0 where no attack needs any. UsageError where they are too few for one, or odd."""
    needs = {name: max(attack.needs.shadows_in, attack.needs.shadows_out) for name, attack in suite.items()}
    name = max(needs, key=lambda name: needs[name])
    if needs[name] == 0:
        return 0
    if shadows % 2:
        raise UsageError(f"complementary halves need an even number of shadows, got {shadows}")
    if shadows < 2 * needs[name]:
        raise UsageError(
            f"{name} needs at least {2 * needs[name]} shadows, {needs[name]} of them trained on any one image and as "
            f"many not; got {shadows}"
        )
    return shadows


def _kept(
    suite: Mapping[str, Attack], bank: ShadowBank | None, subject: AuditedModel, member: NDArray[np.bool_]
) -> tuple[list[str], NDArray[np.int64]]:
    """The SHA-256 of each shadow's weights, and which shadows are compared with. UsageError where these are too few."""
    weights = [] if bank is None else [tensors_digest(bank.state(k)) for k in range(len(bank))]
    kept = kept_shadows(bank, weights, subject, member)
    check_enough(suite, bank, kept, member[None][:0] if bank is None else bank.member[kept])
    return weights, kept


def _ask_target(target: Classifier, images: LabelledImages, asking: dict[str, Any], progress: Progress) -> Statistics:
    progress.phase("asking the target", len(asking["queries"]))
    answers = measure([target], images.x, images.y, advance=progress.advance, **asking)
    check_finite(answers, ["target"])
    check_varied(answers, images.y.numpy(), "target")
    return answers


def _ask_shadows(
    bank: ShadowBank,
    kept: NDArray[np.int64],
    images: LabelledImages,
    asking: dict[str, Any],
    device: str | None,
    progress: Progress,
) -> Statistics:
    progress.phase("asking the shadows", len(asking["queries"]) * len(kept))
    shadow = bank.statistics(
        images.x, images.y, chosen=kept.tolist(), device=device, advance=progress.advance, **asking
    )
    check_finite(shadow, [f"shadow {k}" for k in kept])
    return shadow


def _scores(
    suite: Mapping[str, Attack],
    target: Classifier,
    answers: Statistics,
    shadow: Statistics,
    member: NDArray[np.bool_],
    images: LabelledImages,
) -> Iterator[NDArray[np.float64]]:
    """Each attack's scores from the target's answers and the shadows'."""
    y = images.y.numpy()
    for attack in suite.values():
        if isinstance(attack, BoundaryDistance):
            answers = replace(answers, distance=attack.distances(target, images.x, images.y))
        yield attack.fit(shadow, member, y).score(answers)


def _population(images: LabelledImages, member: NDArray[np.bool_], answers: Statistics) -> Population:
    right, loss = answers.prediction[0, 0] == images.y.numpy(), answers.loss[0, 0].astype(np.float64)
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


def _summary(bank: ShadowBank, kept: NDArray[np.int64]) -> ShadowSummary:
    accuracy = tuple(bank.accuracy[k] for k in kept)
    return ShadowSummary(len(kept), bank.plan.draw.describe(bank.plan.images), accuracy)


def _reasons(
    subject: AuditedModel,
    member: NDArray[np.bool_],
    results: Sequence[AttackResult],
    bank: ShadowBank | None,
    kept: NDArray[np.int64],
) -> Iterator[str]:
    """What a reader of the figures must know."""
    members, others = int(member.sum()), int((~member).sum())
    if bank is not None and (words := left_out(bank, kept)):
        yield words
    if subject.train_size is not None and subject.train_size != members:
        yield (
            f"the target's file says that it was trained on {subject.train_size} images, but {members} members are "
            "named: if members are missing they count as non-members here, and the attacks look weaker than they are"
        )
    seen = members if bank is None or not len(kept) else int(bank.member[kept].sum(axis=1).mean())
    if not 0.8 <= members / seen <= 1.25:
        yield (
            f"each shadow saw {seen} images and the target {members}: the shadows resemble it less than they could; "
            "a population of twice as many images as there are members makes the strongest audit"
        )
    for fpr in FPRS:
        if others * fpr < 1:
            yield f"with {others} non-members, the TPR at {100 * fpr:g} % FPR is that at no false accusation at all"
    for result in results:
        if result.constant:
            yield f"{result.name} gives every image the same score: it says nothing here"


def _settings(attack: Attack) -> dict[str, Any]:
    """The numbers that shape an attack."""
    values: dict[str, Any] = asdict(attack) if is_dataclass(attack) and not isinstance(attack, type) else {}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float)}
