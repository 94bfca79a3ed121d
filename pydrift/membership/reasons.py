"""What a reader of a membership report must know before believing its figures, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from pydrift.core.run_store import first_difference
from pydrift.membership.evaluation import FPRS, AttackResult
from pydrift.membership.shadow_selection import SelectedShadows
from pydrift.models.intake import AuditedModel
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import ShadowBank, function_identity
from pydrift.training import Train

DEFAULT_RECIPE_USED = (
    "the target's training is not known, so the shadows were trained with pydrift's default recipe; attacks are "
    "stronger when the shadows resemble the target more (pass recipe= or train=)"
)
_WEAKER = "so the attacks look weaker than they are with shadows like the target"


def bank_mismatches(
    bank: ShadowBank, target: AuditedModel, recipe: TrainingRecipe | None, train: Train | None
) -> Iterator[str]:
    """How the bank's shadows differ, or may differ, from the target, which was trained by `recipe` or `train`."""
    plan = bank.plan
    if _other_architecture(bank, target):
        names = [name or "a live module" for name in (plan.architecture, target.architecture)]
        yield f"the bank's shadows have another architecture ({names[0]}) than the target ({names[1]}), {_WEAKER}"
    if plan.update_mode != "retrain":
        yield f"the bank's shadows continue a model's training ({plan.update_mode}), {_WEAKER}"
    if plan.own_training is not None:
        if train is None or function_identity(train) != plan.own_training:
            yield (
                f"the bank's shadows were trained by a function of its author ({plan.own_training}), which cannot be "
                "compared with the target's training"
            )
    elif recipe is None:
        yield "the target's training is not known, so it cannot be compared with the bank's recipe (pass recipe=)"
    elif difference := first_difference(asdict(plan.recipe), asdict(recipe)):
        key, there, here = difference
        yield f"the bank's recipe differs from the target's ({key} is {there} there and {here} here), {_WEAKER}"


def _other_architecture(bank: ShadowBank, target: AuditedModel) -> bool:
    if target.architecture is not None and bank.plan.architecture is not None:
        return target.architecture != bank.plan.architecture
    # A live module names no architecture, but its parameters have shapes.
    shapes = {name: tensor.shape for name, tensor in target.module.state_dict().items()}
    return shapes != {name: stack.shape[1:] for name, stack in bank.weights.items()}


def figure_caveats(
    target: AuditedModel, member: NDArray[np.bool_], results: Sequence[AttackResult], selected: SelectedShadows
) -> Iterator[str]:
    """What limits the figures: shadows that were left out, members that are missing, few images, silent attacks."""
    members, non_members = int(member.sum()), int((~member).sum())
    if selected.left_out:
        yield selected.left_out
    if target.train_size is not None and target.train_size != members:
        yield (
            f"the target's file says that it was trained on {target.train_size} images, but {members} members are "
            "named; missing members count as non-members and make the attacks look weaker than they are"
        )
    seen = int(selected.member.sum(axis=1).mean()) if len(selected.kept) else members
    if not 0.8 <= members / seen <= 1.25:
        yield (
            f"each shadow saw {seen} images and the target {members}, so the shadows resemble it less than they "
            "could; the audit is strongest when half of the images are members"
        )
    for fpr in FPRS:
        if non_members * fpr < 1:
            yield (
                f"with {non_members} non-members, the TPR at {100 * fpr:g} % FPR is the TPR without a single false "
                "accusation"
            )
    for result in results:
        if result.constant:
            yield f"{result.name} gives every image the same score, so it shows nothing here"
