"""Which shadows of a bank a target is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import UsageError
from pydrift.core.files import sha256_bytes
from pydrift.core.tensors import tensors_digest
from pydrift.membership.attack import Attack, check_counts
from pydrift.models.intake import AuditedModel
from pydrift.shadows import ShadowBank


@dataclass(frozen=True, eq=False)
class SelectedShadows:
    """The shadows that a target is compared with.

    bank            where they come from; None if no attack needs shadows
    weights_sha256  of the weights of every shadow in the bank, selected or not
    kept            int64 [M], ascending: the numbers of the selected shadows
    member          bool [M, N]: whether selected shadow m was trained on image n
    """

    bank: ShadowBank | None
    weights_sha256: tuple[str, ...]
    kept: NDArray[np.int64]
    member: NDArray[np.bool_]

    @property
    def left_out(self) -> str | None:
        """A sentence that names the shadows that were not selected; None if all were."""
        count = 0 if self.bank is None else len(self.bank)
        missing = np.setdiff1d(np.arange(count), self.kept).tolist()
        if not missing:
            return None
        return (
            f"left out of the {count} shadows: {', '.join(map(str, missing))}; each is the target itself, or was "
            "trained on exactly its members or exactly its non-members, and would give the attacks the answer"
        )

    @property
    def origin(self) -> dict[str, Any] | None:
        """The bank's plan, and one SHA-256 over the digests of all its weights; None without a bank."""
        if self.bank is None:
            return None
        digest = sha256_bytes("".join(self.weights_sha256).encode())
        return {"plan": self.bank.plan.to_dict(), "weights_sha256": digest}


def select_shadows(
    bank: ShadowBank | None, target: AuditedModel, member: NDArray[np.bool_], attacks: Mapping[str, Attack]
) -> SelectedShadows:
    """The shadows of `bank` that give an attack no answer away.

    The target itself is left out, and so is every shadow that was trained on exactly its members or exactly its
    non-members: its IN and OUT images are the very answer that the attacks look for.

    member  bool [N]: which images the target was trained on
    UsageError where too few are left for one of the attacks.
    """
    if bank is None:
        selected = SelectedShadows(None, (), np.arange(0), member[None][:0])
    else:
        weights = tuple(tensors_digest(bank.state(k)) for k in range(len(bank)))
        kept = np.flatnonzero(~_gives_answer_away(bank, weights, target, member))
        selected = SelectedShadows(bank, weights, kept, bank.member[kept])
    _check_enough(selected, attacks)
    return selected


def _gives_answer_away(
    bank: ShadowBank, weights: Sequence[str], target: AuditedModel, member: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """bool [K]: whether shadow k was trained on the target's members, or on all the other images."""
    own = tensors_digest(target.module.state_dict())
    itself = [bank.member[k] for k, digest in enumerate(weights) if digest == own]
    gives_away = np.zeros(len(bank), bool)
    for mask in (member, *itself):
        gives_away |= (bank.member == mask).all(axis=1) | (bank.member != mask).all(axis=1)
    return gives_away


def _check_enough(selected: SelectedShadows, attacks: Mapping[str, Attack]) -> None:
    try:
        for attack in attacks.values():
            check_counts(attack, selected.member)
    except UsageError as error:
        if selected.left_out is None:
            raise
        raise UsageError(f"{error} ({selected.left_out})") from error
