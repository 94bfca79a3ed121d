"""Which of a calibration's shadows judge a candidate: those of its recipe, if that is known, or those that vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import RECIPES

SAME, VARIED = RECIPES
"""Shadows that were trained by the base's recipe, and shadows that depart from it as benign updates may."""


@dataclass(frozen=True)
class Choice:
    """Which shadows judge a candidate, and what of it.

    kind     SAME or VARIED
    known    whether the candidate's recipe is known to be among theirs
    problem  why nothing can be concluded from them; None: nothing speaks against it
    note     what the report must say of them, or None
    """

    kind: str
    known: bool
    problem: str | None = None
    note: str | None = None


def choose_null(
    kinds: Sequence[str], base: TrainingRecipe | None, images: int, candidate: TrainingRecipe | str | None
) -> Choice:
    """Chooses among the kinds of shadows that a calibration has.

    kinds      SAME, VARIED or both
    base       the base's recipe; None where the shadows come from the user's own training
    images     how many images a shadow saw
    candidate  the candidate's recipe; SAME: that of the base, whatever it is; None: nobody knows
    """
    if candidate is None or (base is None and candidate != SAME):
        if VARIED in kinds:
            return Choice(VARIED, known=False)
        note = (
            "the candidate's recipe is not known, and the shadows were all trained by one: a changed recipe can read "
            "as drift (state it: recipe=, --recipe)"
        )
        return Choice(SAME, known=False, note=note)
    changed = [] if isinstance(candidate, str) or base is None else base.departures(candidate, images)
    if not changed:
        return Choice(SAME if SAME in kinds else VARIED, known=True)
    if VARIED not in kinds:
        problem = (
            f"the recipe is outside what was calibrated: the candidate's differs from the base's ({', '.join(changed)})"
            ", by which all shadows were trained; calibrate by varied recipes, or by the candidate's"
        )
        return Choice(SAME, known=False, problem=problem)
    outside = [] if isinstance(candidate, str) or base is None else base.outside_varied(candidate, images)
    if not outside:
        return Choice(VARIED, known=True)
    problem = (
        f"the recipe is outside what was calibrated: the candidate's departs too far from the base's "
        f"({', '.join(outside)}); calibrate by the candidate's recipe"
    )
    return Choice(VARIED, known=False, problem=problem)
