"""Embeds the images by all models of an ownership audit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pydrift.core.errors import InputRefused
from pydrift.core.parallel import each
from pydrift.core.progress import Progress
from pydrift.data import LabelledImages
from pydrift.models.classifier import Classifier, freeze
from pydrift.ownership.case import Case, CaseModel
from pydrift.ownership.decision import OwnershipEmbeddings
from pydrift.ownership.embeddings import Embedding, ImageEmbeddings, nearest_classes
from pydrift.ownership.independent_models import TrainedModels
from pydrift.ownership.regressors import RegressorData
from pydrift.ownership.roles import Roles
from pydrift.shadows import ShadowBank

_CLASSES = 10  # the nearest ones; distances are measured to these
_MODELS_AT_ONCE = 16  # of a bank that are in memory together

_Named = tuple[str, Classifier]
_Embed = Callable[[_Named], ImageEmbeddings]


@dataclass(frozen=True)
class Measurements:
    """All that the decision needs: every model's embeddings, and the data that the regressors learn from."""

    embeddings: OwnershipEmbeddings
    regressor_data: RegressorData


def measure(case: Case, roles: Roles, embedding: Embedding, trained: TrainedModels, progress: Progress) -> Measurements:
    """Embeds the asked images by all models, and the fitted images by the victim. InputRefused names a bad model."""
    asked, fitted = case.asked_images(roles), case.fitted_images(roles)
    victim = ("victim", case.victim.classifier)
    bank_size = trained.references.plan.count + trained.independents.plan.count
    progress.phase("embedding", 2 + len(case.suspects) + bank_size)
    classes, fitted_classes = each(
        partial(nearest_classes, case.victim.classifier, count=_CLASSES), (asked.x, fitted.x)
    )
    (of_fitted,) = each(partial(_embed_images, embedding, fitted, fitted_classes), [victim])
    progress.advance()
    embed = partial(_embed_images, embedding, asked, classes)
    of_victim, *of_suspects = _embed_all(embed, [victim, *((s.name, s.classifier) for s in case.suspects)], progress)
    of_references = _embed_bank(embed, "reference model", trained.references, case.device, progress)
    of_independents = _embed_bank(embed, "independent model", trained.independents, case.device, progress)
    names = [suspect.name for suspect in case.suspects]
    return Measurements(
        OwnershipEmbeddings(
            num_private=len(roles.private_asked),
            victim=of_victim,
            suspects=dict(zip(names, of_suspects, strict=True)),
            references=of_references,
            independents=of_independents,
        ),
        RegressorData(of_fitted.features, np.arange(len(fitted)) < len(roles.private_fitted)),
    )


def measure_accuracy(model: CaseModel, images: LabelledImages, num_private: int) -> tuple[float, float]:
    """The share of correct labels among the first `num_private` images, and among the others."""
    (predicted,) = each(partial(nearest_classes, model.classifier, count=1), [images.x])
    correct = (predicted[:, 0] == images.y).double()
    return float(correct[:num_private].mean()), float(correct[num_private:].mean())


def _embed_images(embedding: Embedding, images: LabelledImages, classes: Tensor, model: _Named) -> ImageEmbeddings:
    name, classifier = model
    try:
        return embedding.embed(classifier, images.x, images.y, classes)
    except InputRefused as error:
        raise InputRefused(f"{name}: {error}") from error


def _embed_all(embed: _Embed, models: Iterable[_Named], progress: Progress) -> list[ImageEmbeddings]:
    """By every model, in parallel."""
    found = []
    for embeddings in each(embed, models):
        found.append(embeddings)
        progress.advance()
    return found


def _embed_bank(
    embed: _Embed, kind: str, bank: ShadowBank, device: torch.device, progress: Progress
) -> list[ImageEmbeddings]:
    modules, found = bank.models(), []
    for first in range(0, len(modules), _MODELS_AT_ONCE):
        ready = []
        for k, module in enumerate(modules[first : first + _MODELS_AT_ONCE], start=first):
            name = f"{kind} {k}"
            ready.append((name, freeze(module, bank.plan.input_shape, device, name)))
        found += _embed_all(embed, ready, progress)
    return found
