"""Which shadows a target may be compared with, and how far they resemble it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import UsageError
from pydrift.core.store import first_difference, sha256_bytes, tensors_digest
from pydrift.membership import Attack, check_counts
from pydrift.models.intake import AuditedModel
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import ShadowBank
from pydrift.shadows.plan import function_identity
from pydrift.training import Train


def kept_shadows(
    bank: ShadowBank | None, weights: Sequence[str], subject: AuditedModel, member: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The shadows of the bank that the target is compared with: all that tell something about models like it.

    Not the target itself, nor any that was trained on exactly its members or exactly on the others: of such a shadow,
    IN and OUT are the very answer that the attacks look for.
    """
    if bank is None:
        return np.arange(0)
    own = tensors_digest(subject.module.state_dict())
    itself = [bank.member[k] for k, digest in enumerate(weights) if digest == own]
    telling = np.zeros(len(bank), bool)
    for mask in (member, *itself):
        telling |= (bank.member == mask).all(axis=1) | (bank.member != mask).all(axis=1)
    return np.flatnonzero(~telling)


def left_out(bank: ShadowBank, kept: NDArray[np.int64]) -> str | None:
    """Which shadows were left out, in words; None where all are kept."""
    missing = np.setdiff1d(np.arange(len(bank)), kept).tolist()
    if not missing:
        return None
    return (
        f"left out of the {len(bank)} shadows: {', '.join(map(str, missing))}, for being the target itself or trained "
        "on exactly its members or exactly on the others, which would tell the attacks the answer"
    )


def check_enough(
    suite: Mapping[str, Attack], bank: ShadowBank | None, kept: NDArray[np.int64], member: NDArray[np.bool_]
) -> None:
    """UsageError where the shadows that are kept, of membership [K, N], are too few for an attack."""
    try:
        for attack in suite.values():
            check_counts(attack, member)
    except UsageError as error:
        if bank is None or (words := left_out(bank, kept)) is None:
            raise
        raise UsageError(f"{error} ({words})") from error


def origin_of(bank: ShadowBank, weights: Sequence[str]) -> dict[str, Any]:
    """What determines the shadows, and what came of it: of each model's weights the digest, all digests as one."""
    return {"plan": bank.plan.to_dict(), "weights_sha256": sha256_bytes("".join(weights).encode())}


def shadow_mismatches(
    bank: ShadowBank, subject: AuditedModel, known: TrainingRecipe | None, train: Train | None
) -> Iterator[str]:
    """In what the bank's shadows are, or may be, other models than the target."""
    weaker = "the attacks look weaker than they are on shadows that resemble the target"
    plan = bank.plan
    if subject.architecture is not None and plan.architecture is not None:
        other = subject.architecture != plan.architecture
    else:  # a live module names no architecture, but has shapes
        shapes = {name: tensor.shape for name, tensor in subject.module.state_dict().items()}
        other = shapes != {name: stack.shape[1:] for name, stack in bank.weights.items()}
    if other:
        names = [name or "a live module" for name in (plan.architecture, subject.architecture)]
        yield f"the bank's shadows are of another architecture ({names[0]}) than the target ({names[1]}): {weaker}"
    if plan.update_mode != "retrain":
        yield f"the bank's shadows continue a model's training ({plan.update_mode}), none was trained from scratch: {weaker}"
    if plan.own_training is not None:
        if train is None or function_identity(train) != plan.own_training:
            yield (
                f"the bank's shadows were trained by a function of its maker's ({plan.own_training}), which cannot be "
                "compared with the target's training"
            )
    elif known is None:
        yield (
            "nothing says how the target was trained, so nothing tells whether the bank's shadows resemble it (pass "
            "recipe= to have it compared)"
        )
    elif difference := first_difference(asdict(plan.recipe), asdict(known)):
        key, there, here = difference
        yield f"the bank's recipe is not the target's ({key} is {there} there and {here} here): {weaker}"
