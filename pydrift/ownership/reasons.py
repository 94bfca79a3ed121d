"""What a reader of the verdicts must know, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pydrift.ownership.blind_walk import MAX_QUERIES, BlindWalk
from pydrift.ownership.case import Case
from pydrift.ownership.embeddings import Embedding
from pydrift.ownership.independent_models import ModelTraining, TrainedModels
from pydrift.ownership.result import SuspectResult
from pydrift.ownership.roles import Roles

_MUCH_BETTER = 0.1  # in accuracy on the public images that are asked about, which are few


def explain_training(case: Case, roles: Roles, training: ModelTraining) -> Iterator[str]:
    """What limits p because of how the independent models were trained."""
    if not (training.recipe or training.train):
        yield (
            "nothing says how the victim was trained, so the independent models were trained by pydrift's default "
            "recipe; the less they resemble an independent suspect, the less p means (pass recipe= or train=)"
        )
    if training.train is not None:
        yield (
            "the given function trained all independent models in the same way: independent suspects differ more from "
            "each other"
        )
    if len(case.suspects) > 1:
        count = len(case.suspects)
        yield (
            f"each of {count} suspects is judged by itself: if all are independent, the chance that one of them is "
            f"accused is up to {count} times alpha"
        )
    num_private, train_size = len(case.private), case.victim.model.train_size
    if train_size is not None and train_size != num_private:
        yield (
            f"the victim's file says that it was trained on {train_size} images, but {num_private} private ones are "
            "given: the victim must have been trained on each of these"
        )
    if (half := len(roles.independent_pool) // 2) < num_private:
        yield (
            f"each independent model saw {half} images and the victim {num_private}: with more public images they "
            "would resemble it more"
        )


def explain_results(embedding: Embedding, trained: TrainedModels, results: Sequence[SuspectResult]) -> Iterator[str]:
    """What is unusual about the models that were asked; `results` holds the victim's, too."""
    if isinstance(embedding, BlindWalk) and (most := max(result.queries for result in results)) > MAX_QUERIES:
        yield (
            f"a model was shown {most:,} images, more than the {MAX_QUERIES:,} that Blind Walk is meant to stay below: "
            "reveal fewer samples where queries are counted"
        )
    accuracy = [value for value in trained.independents.accuracy if value is not None]
    usual = float(np.quantile(accuracy, 0.9)) if accuracy else 1.0
    better = [result.name for result in results if result.accuracy_public > usual + _MUCH_BETTER]
    if better:
        verb = "is" if len(better) == 1 else "are"
        yield (
            f"{', '.join(better)} {verb} right on clearly more of the public images than nine in ten independent "
            f"models, which reach at most {100 * usual:.0f} %: two models that are better than the independent ones "
            "agree a little more with each other, whatever they were trained on"
        )
