"""The models and images of one ownership audit, loaded and checked to fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import sha256_bytes
from pydrift.data import LabelledImages, take_images
from pydrift.models.classifier import Classifier, choose_device, freeze
from pydrift.models.intake import AuditedModel, Model, as_audited_model, check_num_classes
from pydrift.ownership.roles import Indices, Roles


@dataclass(frozen=True)
class CaseModel:
    """The victim or a suspect: its name in the report, the model, and the same model ready to answer."""

    name: str
    model: AuditedModel
    classifier: Classifier


@dataclass(frozen=True)
class Case:
    """A victim, its suspects and the images. All models and images have the same shape and the same classes.

    private, public  without duplicates; no image is in both
    """

    victim: CaseModel
    suspects: tuple[CaseModel, ...]
    private: LabelledImages
    public: LabelledImages
    device: torch.device

    def asked_images(self, roles: Roles) -> LabelledImages:
        """The images that suspects are asked about, the private ones first."""
        return self._join(roles.private_asked, roles.public_asked)

    def fitted_images(self, roles: Roles) -> LabelledImages:
        """The images that the regressors learn from, the private ones first."""
        return self._join(roles.private_fitted, roles.public_fitted)

    def _join(self, private: Indices, public: Indices) -> LabelledImages:
        first, second = self.private.subset(private), self.public.subset(public)
        x, y = torch.cat([first.x, second.x]), torch.cat([first.y, second.y])
        return LabelledImages(x, y, first.class_names, first.source)


def open_case(
    victim: Model,
    suspects: Mapping[str, Model] | Sequence[Model],
    private: Any,
    public: Any,
    arch: str | None,
    device: str | None,
) -> Case:
    """Loads all of them. See `ownership_audit` for the arguments.

    UsageError: suspects without a name of their own. InputRefused: models or images that do not fit together.
    """
    named = name_suspects(suspects)
    owner = as_audited_model(victim, "victim", arch)
    accused = {name: as_audited_model(model, name, arch) for name, model in named.items()}
    private_images, public_images = take_images(private), take_images(public)
    shape, where = private_images.input_shape, choose_device(device)
    owned = CaseModel("victim", owner, freeze(owner.module, shape, where, "victim"))
    num_classes = owned.classifier.num_classes
    private_images, public_images = _match_images(private_images, public_images, num_classes)
    frozen = [CaseModel(name, model, freeze(model.module, shape, where, name)) for name, model in accused.items()]
    for one in frozen:
        check_num_classes(one.classifier.num_classes, one.name, num_classes, "the victim", of_data=False)
    return Case(owned, tuple(frozen), private_images, public_images, where)


def name_suspects(suspects: Mapping[str, Model] | Sequence[Model]) -> dict[str, Model]:
    """The suspects by name. In a list, a model file has its file name, and any other model its number.

    UsageError: no suspect, a name twice, or the name "victim".
    """
    named = dict(suspects) if isinstance(suspects, Mapping) else _name_list(suspects)
    if not named:
        raise UsageError("suspects: name at least one model")
    if "victim" in named:
        raise UsageError("suspects: 'victim' is the victim's name; give this one another")
    return named


def _name_list(suspects: Sequence[Model]) -> dict[str, Model]:
    names = [Path(model).name if isinstance(model, str | Path) else f"suspect {k}" for k, model in enumerate(suspects)]
    twice = sorted({name for name in names if names.count(name) > 1})
    names = [str(model) if name in twice else name for name, model in zip(names, suspects, strict=True)]
    named = dict(zip(names, suspects, strict=True))
    if len(named) < len(names):
        raise UsageError(f"suspects: {twice[0]} is named twice")
    return named


def _match_images(
    private: LabelledImages, public: LabelledImages, num_classes: int
) -> tuple[LabelledImages, LabelledImages]:
    """Both sets without duplicates, with as many class names as the victim has classes.

    InputRefused: other shapes or class names, more classes than the victim has, or an image in both sets.
    """
    if private.input_shape != public.input_shape:
        shapes = ("x".join(map(str, images.input_shape)) for images in (public, private))
        raise InputRefused("public: images of {}, but the private ones are of {}".format(*shapes))
    names = max(private.class_names, public.class_names, key=len)
    for images in (private, public):
        if images.class_names != names[: images.num_classes]:
            raise InputRefused("public: the private images have other class names, or the same in another order")
    if len(names) > num_classes:
        check_num_classes(num_classes, "the victim", len(names), "the set of images")
    names += tuple(str(k) for k in range(len(names), num_classes))
    seen: dict[str, int] = {}  # digest of each private image -> its index
    kept = [_first_of_each(private, seen, is_private=True), _first_of_each(public, seen, is_private=False)]
    matched = [
        replace(images if len(indices) == len(images) else images.subset(indices), class_names=names)
        for images, indices in zip((private, public), kept, strict=True)
    ]
    return matched[0], matched[1]


def _first_of_each(images: LabelledImages, seen: dict[str, int], *, is_private: bool) -> list[int]:
    """Indices of the images without later duplicates; adds their digests to `seen`, public ones with the index -1."""
    kept = []
    for n, row in enumerate(images.x.numpy()):
        digest = sha256_bytes(row.tobytes())
        if digest not in seen:
            kept.append(n)
        elif not is_private and seen[digest] >= 0:
            raise InputRefused(f"public: image {n} is private image {seen[digest]}; no image may be in both")
        seen.setdefault(digest, n if is_private else -1)
    return kept
