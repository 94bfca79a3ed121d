"""The state between the two halves of an audit: all that is needed to judge an update without any data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pydrift.core.artifact import Format, SealedFolder, decode, decode_fields, encode
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import write_atomic
from pydrift.core.manifest import read_verified
from pydrift.core.strict_json import parse_strict_json, write_json
from pydrift.core.tensors import content_digest, safetensors_bytes
from pydrift.drift.choice import SAME, VARIED
from pydrift.drift.null import Null, NullDescription, below, check_types
from pydrift.inversion import ATTACKS, InversionAttack
from pydrift.inversion.gray import GrayData
from pydrift.models.arch import resolve_stored
from pydrift.models.intake import AuditedModel
from pydrift.models.live import in_evaluation, unwrapped
from pydrift.models.normalization import Normalization, Normalized
from pydrift.models.recipe import TrainingRecipe

GUESSED = {
    "recipe": "nothing says how the base was trained, so the shadows were trained by pydrift's default recipe; where "
    "that differs much, benign updates can read as drift (pass recipe= or train=)",
    "size": "nothing says how many images the base was trained on, so it is taken for all of the reference data; where "
    "it saw far fewer, benign updates can read as drift (pass size=, --size)",
}
"""What is added to the reasons of a report whose null rests on a guess."""

_STATE, _DESCRIPTION = "state.safetensors", "calibration.json"


@dataclass(frozen=True)
class _Base:
    """What calibration.json says of the base; `architecture` is None for a live module."""

    name: str
    sha256: str
    architecture: str | None


@dataclass(frozen=True)
class _Description:
    """calibration.json. Fields that Calibration has too are that field.

    attack  its name and settings
    """

    base: _Base
    nulls: dict[str, NullDescription]
    attack: dict[str, Any]
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    update_mode: str
    draw: str
    draw_size: int
    recipe: TrainingRecipe | None
    restarts: int
    seed: int
    data: str
    data_sha256: str
    settings: dict[str, Any]
    seconds: dict[str, float]


_PLAIN = [field.name for field in fields(_Description) if field.name not in ("base", "nulls", "attack")]


@dataclass(frozen=True)
class Calibration(SealedFolder):
    """What a comparison needs: the base, its gray data, and one null or two.

    gray       of the base
    nulls      by kind, SAME or VARIED (see pydrift.drift.choice)
    draw       how a shadow's images were drawn, in words; draw_size: how many it saw
    recipe     by which the shadows of the kind SAME were trained; None: by the user's own training
    data       where the reference data came from
    settings   recipe and draw as used, for the report
    """

    base: AuditedModel
    gray: GrayData
    nulls: dict[str, Null]
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    update_mode: str
    draw: str
    draw_size: int
    recipe: TrainingRecipe | None
    attack: InversionAttack
    restarts: int
    seed: int
    data: str
    data_sha256: str
    settings: dict[str, Any]
    seconds: dict[str, float]

    # The version is also raised when other probes are shown: responses to other questions cannot be compared.
    format = Format("calibration", 6, "Calibrate again to get one.")
    names = (_STATE, _DESCRIPTION)

    def _write(self, folder: Path) -> None:
        """No reference images are among what is written."""
        write_atomic(folder / _STATE, safetensors_bytes(self._tensors(), {}))
        write_json(folder / _DESCRIPTION, self._document())

    @classmethod
    def load(cls, folder: str | Path, arch: str | None = None, base: nn.Module | None = None) -> Calibration:
        """Reads a calibration, every file checked against the manifest.

        A base of an architecture that is not built in is only rebuilt if the caller names it: `arch`
        ("package.module:factory") or `base` (a module of that kind). InputRefused on damaged or foreign folders.
        """
        folder = Path(folder)
        manifest = cls._verified(folder)
        with cls.format.reading(folder):
            description, state = (read_verified(folder, name, manifest) for name in (_DESCRIPTION, _STATE))
            said = _Description(**decode_fields(_Description, parse_strict_json(description)))
            return cls._from_parts(said, load_safetensors(state), folder, arch, base)

    @classmethod
    def _from_parts(
        cls, said: _Description, state: dict[str, Tensor], folder: Path, arch: str | None, base: nn.Module | None
    ) -> Calibration:
        architecture = arch or said.base.architecture
        known = _template(architecture, trusted=arch is not None, folder=folder) if base is None else base
        template = unwrapped(known)
        _check(said, state)
        normalize = said.settings.get("normalize")
        if normalize is not None and not isinstance(template, Normalized):
            template = Normalized(template, decode(Normalization, normalize, "normalize"))
        nulls = {}
        for kind, described in said.nulls.items():
            of_null = below(f"{kind}.", state)
            weights = [below(f"model.{k}.", of_null) for k in range(described.shadows)]
            shadows = [_rebuilt(template, parameters, folder) for parameters in weights]
            nulls[kind] = described.rebuild(of_null, shadows, (len(said.class_names), *said.input_shape))
        module = _rebuilt(template, below("base.", state), folder)
        return cls(
            base=AuditedModel(module, said.base.name, said.base.sha256, architecture, None, None),
            gray=GrayData(**{name: tensor.numpy() for name, tensor in below("gray.", state).items()}),
            nulls=nulls,
            attack=_attack(said.attack, folder),
            **{name: getattr(said, name) for name in _PLAIN},
        )

    @property
    def normalization(self) -> Normalization | None:
        """With which base, shadows and candidates take images in [0, 1]; None: as they are."""
        return self.base.module.normalization if isinstance(self.base.module, Normalized) else None

    def digest(self) -> str:
        """SHA-256 of all that a comparison depends on: every tensor, and all that is said but how long it took.

        The base counts by its printed structure, not by the name of its architecture, which the caller may give.
        """
        said = {name: value for name, value in self._document().items() if name not in ("seconds", "base")}
        base = {"name": self.base.name, "sha256": self.base.sha256, "structure": repr(self.base.module)}
        return content_digest({**self.format.heading(), **said, "base": base}, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"gray.{name}": torch.from_numpy(values) for name, values in vars(self.gray).items()}
        tensors |= {f"base.{name}": tensor for name, tensor in self.base.module.state_dict().items()}
        for kind, null in self.nulls.items():
            tensors |= {f"{kind}.{name}": tensor for name, tensor in null.tensors().items()}
        return tensors

    def _document(self) -> dict[str, Any]:
        return encode(
            _Description(
                base=_Base(self.base.name, self.base.sha256, self.base.architecture),
                nulls={kind: null.describe() for kind, null in self.nulls.items()},
                attack=describe_attack(self.attack),
                **{name: getattr(self, name) for name in _PLAIN},
            )
        )


def _check(said: _Description, state: Mapping[str, Tensor]) -> None:
    """ValueError unless the description and the gray data of the base fit together."""
    gray = {name: tensor for name, tensor in state.items() if name.startswith("gray.")}
    check_types(gray, {"gray.steps": torch.int32}, torch.float32)
    guessed, shape = said.settings.get("guessed"), (len(said.class_names), said.restarts, *said.input_shape)
    fits = state["gray.images"].shape == shape and len(said.nulls) > 0 and set(said.nulls) <= {SAME, VARIED}
    if not (fits and isinstance(guessed, list) and all(name in GUESSED for name in guessed)):
        raise ValueError("its parts do not fit together")


def describe_attack(attack: InversionAttack) -> dict[str, Any]:
    """An attack's name and settings, as plain JSON values."""
    name = next((name for name, kind in ATTACKS.items() if isinstance(attack, kind)), None)
    if name is None:
        raise UsageError(f"{type(attack).__name__} is not in pydrift.inversion.ATTACKS, so no file could name it")
    return {"name": name, **attack.settings()}


def _attack(described: dict[str, Any], folder: Path) -> InversionAttack:
    name, settings = described.get("name"), {k: v for k, v in described.items() if k != "name"}
    if name not in ATTACKS:
        raise InputRefused(f"{folder}: made with the inversion {name!a}; known are {', '.join(ATTACKS)}")
    return decode(ATTACKS[name], settings, "attack")


def _template(architecture: str | None, trusted: bool, folder: Path) -> nn.Module:
    if architecture is None:
        raise UsageError(f"{folder}: calibrated on a live module; pass base=, a module of the same architecture")
    return resolve_stored(architecture, architecture if trusted else None, folder)(0)


def _rebuilt(template: nn.Module, state: Mapping[str, Tensor], folder: Path) -> nn.Module:
    module = copy.deepcopy(template)
    types = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    if wrong := [name for name, tensor in state.items() if tensor.dtype != types.get(name, tensor.dtype)]:
        found = f"{wrong[0]!a} is of {state[wrong[0]].dtype}"
        raise InputRefused(f"{folder}: its models do not fit the architecture: {found}")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputRefused(f"{folder}: its models do not fit the architecture: {reason}") from error
    return in_evaluation(module)
