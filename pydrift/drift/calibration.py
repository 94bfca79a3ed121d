"""The state between the two halves of an audit: all that is needed to judge an update without any data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pydrift.core.artifact import Format, SealedFolder, decode, decode_fields, encode
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import write_atomic
from pydrift.core.manifest import read_verified
from pydrift.core.strict_json import parse_strict_json, write_json
from pydrift.core.tensors import content_digest, safetensors_bytes
from pydrift.drift.scores import PROBES
from pydrift.drift.soundness import CONSENSUS, OWN, Recognised
from pydrift.inversion import ATTACKS, InversionAttack
from pydrift.inversion.gray import GrayData
from pydrift.models.arch import resolve_stored
from pydrift.models.intake import AuditedModel

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

    asked    the variants of each probe, in their order; the tables are in state.safetensors
    shadows  how many
    attack   its name and settings
    """

    base: _Base
    shadows: int
    asked: dict[str, list[str]]
    attack: dict[str, Any]
    base_p_value: float | None
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    update_mode: str
    draw: str
    shadow_accuracy: tuple[float | None, ...]
    restarts: int
    seed: int
    data: str
    data_sha256: str
    settings: dict[str, Any]
    seconds: dict[str, float]


_FIGURES = ("confidence", "recognition", "own_confidence")
_SAID_OTHERWISE = ("base", "shadows", "asked", "attack")
_PLAIN = [field.name for field in fields(_Description) if field.name not in _SAID_OTHERWISE]


@dataclass(frozen=True)
class Calibration(SealedFolder):
    """A fitted null: the base, its K shadows, gray data, and what these models say of it.

    gray          of the base
    consensus     float32 [groups, classes, restarts, C, H, W]: images that groups of shadows take for the classes
    responses     of each probe, of each variant float64 [K + 1, ..., classes], the base first (see
                  pydrift.drift.responses)
    confidence    float64 [classes]: the shadows' mean confidence in the consensus images that they made
    recognition     float64 [K + 1, classes]: each model's mean confidence in the consensus that it had no part in
    own_confidence  float64 [K + 1, classes]: each model's mean confidence in its own gray data
    base_p_value    p of the base as if it were a candidate; None where it is none (shadows that continue from it)
    """

    base: AuditedModel
    shadows: tuple[nn.Module, ...]
    gray: GrayData
    consensus: NDArray[np.float32]
    responses: dict[str, dict[str, NDArray[np.float64]]]
    confidence: NDArray[np.float64]
    recognition: NDArray[np.float64]
    own_confidence: NDArray[np.float64]
    base_p_value: float | None
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    update_mode: str
    draw: str
    shadow_accuracy: tuple[float | None, ...]
    attack: InversionAttack
    restarts: int
    seed: int
    data: str  # where the reference data came from
    data_sha256: str
    settings: dict[str, Any]  # recipe and draw as used, for the report
    seconds: dict[str, float]

    # The version is also raised when other probes are shown: responses to other questions cannot be compared.
    format = Format("calibration", 5, "Calibrate again to get one.")
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
        template = base if base is not None else _template(architecture, trusted=arch is not None, folder=folder)
        tables = {name: tensor.numpy() for name, tensor in _below("responses.", state).items()}
        responses = _responses(said.asked, tables)
        _check_types(state)
        _check_shapes(said, state, responses)
        models = range(said.shadows + 1)
        modules = [_rebuilt(template, _below(f"model.{m}.", state), folder) for m in models]
        return cls(
            base=AuditedModel(modules[0], said.base.name, said.base.sha256, architecture, None, None),
            shadows=tuple(modules[1:]),
            gray=GrayData(**{name: tensor.numpy() for name, tensor in _below("gray.", state).items()}),
            consensus=state["consensus"].numpy(),
            responses=responses,
            confidence=state["confidence"].numpy(),
            recognition=state["recognition"].numpy(),
            own_confidence=state["own_confidence"].numpy(),
            attack=_attack(said.attack, folder),
            **{name: getattr(said, name) for name in _PLAIN},
        )

    def compare_recognition(self, recognition: NDArray[np.float64], gray: GrayData) -> dict[str, Recognised]:
        """How surely shadows and a candidate recognise the classes, for pydrift.drift.soundness.

        recognition  float64 [classes]: the candidate's mean confidence in the consensus
        gray         of the candidate
        """
        own = gray.confidence.mean(axis=1, dtype=float)
        return {
            CONSENSUS: Recognised(self.recognition[1:], recognition),
            OWN: Recognised(self.own_confidence[1:], own),
        }

    def digest(self) -> str:
        """SHA-256 of all that a comparison depends on: every tensor, and all that is said but how long it took.

        The base counts by its printed structure, not by the name of its architecture, which the caller may give.
        """
        said = {name: value for name, value in self._document().items() if name not in ("seconds", "base")}
        base = {"name": self.base.name, "sha256": self.base.sha256, "structure": repr(self.base.module)}
        return content_digest({**self.format.heading(), **said, "base": base}, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        arrays = {"consensus": self.consensus, **{name: getattr(self, name) for name in _FIGURES}}
        arrays |= {
            f"responses.{name}.{v}": table for name, variants in self.responses.items() for v, table in variants.items()
        }
        arrays |= {f"gray.{name}": values for name, values in vars(self.gray).items()}
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        for m, module in enumerate((self.base.module, *self.shadows)):
            tensors.update({f"model.{m}.{name}": tensor for name, tensor in module.state_dict().items()})
        return tensors

    def _document(self) -> dict[str, Any]:
        return encode(
            _Description(
                base=_Base(self.base.name, self.base.sha256, self.base.architecture),
                shadows=len(self.shadows),
                asked={name: list(variants) for name, variants in self.responses.items()},
                attack=describe_attack(self.attack),
                **{name: getattr(self, name) for name in _PLAIN},
            )
        )


def _responses(
    asked: Mapping[str, Sequence[str]], tables: Mapping[str, NDArray[np.float64]]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The tables by probe and variant, in the order of PROBES and of `asked`. ValueError unless they are just those."""
    for probe, variants in asked.items():
        for variant in variants:
            if probe in PROBES and f"{probe}.{variant}" not in tables:
                raise ValueError(f"the responses to {probe}.{variant} are missing")
    responses = {i: {variant: tables[f"{i}.{variant}"] for variant in asked[i]} for i in PROBES if i in asked}
    if not 0 < sum(map(len, asked.values())) == sum(map(len, responses.values())) == len(tables):
        raise ValueError("its parts do not fit together")
    return responses


def _check_types(state: Mapping[str, Tensor]) -> None:
    """ValueError unless each table has the type that is written; `_rebuilt` asks the same of the models."""
    singles = {"consensus": torch.float32, "gray.images": torch.float32, "gray.confidence": torch.float32}
    expected = {**singles, "gray.steps": torch.int32}
    for name, tensor in state.items():
        if not name.startswith("model.") and tensor.dtype != expected.get(name, torch.float64):
            raise ValueError(f"{name!a} is of {tensor.dtype}")


def _check_shapes(
    said: _Description, state: Mapping[str, Tensor], responses: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> None:
    """ValueError unless the tensors have the shapes that the description gives them."""
    classes, shape = len(said.class_names), (said.restarts, *said.input_shape)
    fits = state["confidence"].shape == (classes,) and state["gray.images"].shape == (classes, *shape)
    for name in ("recognition", "own_confidence"):
        fits &= state[name].shape == (said.shadows + 1, classes)
    fits &= state["consensus"].shape[1:2] == (classes,) and state["consensus"].shape[3:] == shape[1:]
    for probe, variants in responses.items():
        for table in variants.values():
            fits &= table.ndim >= 2 and (table.shape[0], table.shape[-1]) == (said.shadows + 1, classes)
            fits &= not PROBES[probe].per_class or table.shape[1:] == (classes, classes)
    guessed = said.settings.get("guessed")
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
    return module.eval().requires_grad_(False)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
