"""The state between the two halves of an audit: all that is needed to judge a update without any data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pydrift.core.errors import InputRefused, PydriftError, UsageError
from pydrift.core.store import (
    MANIFEST,
    check_writable,
    parse_strict_json,
    read_verified,
    safetensors_bytes,
    tensors_digest,
    verify_manifest,
    write_atomic,
    write_json,
    write_manifest,
)
from pydrift.drift.scores import PROBES
from pydrift.inversion import ATTACKS, InversionAttack
from pydrift.inversion.gray import GrayData
from pydrift.models.arch import resolve_stored
from pydrift.models.intake import AuditedModel

FORMAT = 3  # also raised when other probes are shown: responses to other questions cannot be compared

GUESSED = {
    "recipe": "nothing says how the base was trained, so the shadows were trained by pydrift's default recipe; where "
    "that differs much, benign updates can read as drift (pass recipe= or train=)",
    "size": "nothing says how many images the base was trained on, so it is taken for all of the reference data; where "
    "it saw far fewer, benign updates can read as drift (pass size=, --size)",
}
"""What is added to the reasons of a report whose null rests on a guess."""

_STATE, _DESCRIPTION = "state.safetensors", "calibration.json"
_CONVERTED = ("class_names", "input_shape", "shadow_accuracy")  # tuples that JSON makes lists of
_PLAIN = (
    *_CONVERTED,
    *("update_mode", "draw", "base_p_value", "restarts", "seed", "data", "data_sha256", "settings", "seconds"),
)


@dataclass(frozen=True)
class Calibration:
    """A fitted null: the base, its K shadows, gray data, and what these models say of it.

    gray          of the base
    consensus     float32 [groups, classes, restarts, C, H, W]: images that groups of shadows take for the classes
    responses       of each probe, of each view float64 [K + 1, ..., classes], the base first (see pydrift.drift.responses)
    confidence    float64 [classes]: the shadows' mean confidence in the consensus images that they made
    base_p_value  p of the base as if it were a update; None where it is not one (shadows that continue from it)
    """

    base: AuditedModel
    shadows: tuple[nn.Module, ...]
    gray: GrayData
    consensus: NDArray[np.float32]
    responses: dict[str, dict[str, NDArray[np.float64]]]
    confidence: NDArray[np.float64]
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

    def save(self, folder: str | Path) -> None:
        """Writes state.safetensors, calibration.json and, last, MANIFEST.json with their hashes. No reference images.

        UsageError where the folder holds other files.
        """
        folder = Path(folder)
        self.check_target(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
        write_atomic(folder / _STATE, safetensors_bytes(self._tensors(), {}))
        write_json(folder / _DESCRIPTION, self._description())
        write_manifest(folder, {"format": FORMAT, "kind": "pydrift calibration"})

    @staticmethod
    def check_target(folder: str | Path) -> None:
        """Asks whether `save` could write there: UsageError where not, or where other files are. Leaves nothing."""
        folder = Path(folder)
        check_writable(folder / _STATE)
        strangers = {f.name for f in folder.glob("*")} - {_STATE, _DESCRIPTION, MANIFEST}
        strangers = {name for name in strangers if not name.startswith(".")}  # a killed save may have left hidden ones
        if strangers:
            raise UsageError(f"{folder}: holds other files ({min(strangers)}); give a new folder for the calibration")

    @classmethod
    def load(cls, folder: str | Path, arch: str | None = None, base: nn.Module | None = None) -> Calibration:
        """Reads a calibration, every file checked against the manifest.

        A base of an architecture that is not built in is only rebuilt if the caller names it: `arch`
        ("package.module:factory") or `base` (a module of that kind). InputRefused on damaged or foreign folders.
        """
        folder = Path(folder)
        manifest = verify_manifest(folder)
        if manifest.get("kind") != "pydrift calibration" or manifest.get("format") != FORMAT:
            raise InputRefused(f"{folder}: not a pydrift calibration of format {FORMAT}")
        try:
            description, state = (read_verified(folder, name, manifest) for name in (_DESCRIPTION, _STATE))
            return cls._from_parts(parse_strict_json(description), load_safetensors(state), folder, arch, base)
        except PydriftError:
            raise
        except Exception as error:  # whatever a made-up description or state makes the parsers say
            raise InputRefused(f"{folder}: not a readable calibration: {error!r}") from error

    @classmethod
    def _from_parts(
        cls, raw: dict[str, Any], state: dict[str, Tensor], folder: Path, arch: str | None, base: nn.Module | None
    ) -> Calibration:
        architecture = arch or raw["base"]["architecture"]
        template = base if base is not None else _template(architecture, trusted=arch is not None, folder=folder)
        models = range(raw["shadows"] + 1)
        classes, shape = len(raw["class_names"]), (raw["restarts"], *raw["input_shape"])
        tables = {name: tensor.numpy() for name, tensor in _below("responses.", state).items()}
        responses = {i: {v: tables[f"{i}.{v}"] for v in raw["asked"][i]} for i in PROBES if i in raw["asked"]}
        named = sum(map(len, raw["asked"].values()))
        fits = 0 < named == sum(map(len, responses.values())) == len(tables)
        for probe, views in responses.items():
            for table in views.values():
                fits &= table.ndim >= 2 and (table.shape[0], table.shape[-1]) == (len(models), classes)
                fits &= not PROBES[probe].per_class or table.shape[1:] == (classes, classes)
        fits &= state["confidence"].shape == (classes,) and state["gray.images"].shape == (classes, *shape)
        fits &= state["consensus"].shape[1:2] == (classes,) and state["consensus"].shape[3:] == shape[1:]
        if not (fits and isinstance(raw["seed"], int) and isinstance(raw["settings"]["guessed"], list)):
            raise ValueError("its parts do not fit together")
        modules = [_rebuilt(template, _below(f"model.{m}.", state), folder) for m in models]
        return cls(
            base=AuditedModel(modules[0], raw["base"]["name"], raw["base"]["sha256"], architecture, None, None),
            shadows=tuple(modules[1:]),
            gray=GrayData(**{name: tensor.numpy() for name, tensor in _below("gray.", state).items()}),
            consensus=state["consensus"].numpy(),
            responses=responses,
            confidence=state["confidence"].numpy(),
            class_names=tuple(raw["class_names"]),
            input_shape=tuple(raw["input_shape"]),
            shadow_accuracy=tuple(raw["shadow_accuracy"]),
            attack=_attack(raw["attack"], folder),
            **{k: raw[k] for k in _PLAIN if k not in _CONVERTED},
        )

    def digest(self) -> str:
        """SHA-256 of what a comparison depends on."""
        return tensors_digest(self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        arrays = {"consensus": self.consensus, "confidence": self.confidence}
        arrays |= {
            f"responses.{name}.{v}": table for name, views in self.responses.items() for v, table in views.items()
        }
        arrays |= {f"gray.{name}": values for name, values in vars(self.gray).items()}
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        for m, module in enumerate((self.base.module, *self.shadows)):
            tensors.update({f"model.{m}.{name}": tensor for name, tensor in module.state_dict().items()})
        return tensors

    def _description(self) -> dict[str, Any]:
        base = {"name": self.base.name, "sha256": self.base.sha256, "architecture": self.base.architecture}
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "asked": {name: list(views) for name, views in self.responses.items()},
            "base": base,
            "shadows": len(self.shadows),
            "attack": describe_attack(self.attack),
        }


def describe_attack(attack: InversionAttack) -> dict[str, Any]:
    """An attack's name and settings, as plain JSON values."""
    name = next((name for name, kind in ATTACKS.items() if isinstance(attack, kind)), None)
    if name is None:
        raise UsageError(f"{type(attack).__name__} is not in pydrift.inversion.ATTACKS, so no file could name it")
    return {"name": name, **attack.settings()}


def _attack(described: dict[str, Any], folder: Path) -> InversionAttack:
    name, settings = described["name"], {k: v for k, v in described.items() if k != "name"}
    if name not in ATTACKS:
        raise InputRefused(f"{folder}: made with the inversion {name!a}; known are {', '.join(ATTACKS)}")
    return ATTACKS[name](**settings)


def _template(architecture: str | None, trusted: bool, folder: Path) -> nn.Module:
    if architecture is None:
        raise UsageError(f"{folder}: calibrated on a live module; pass base=, a module of the same architecture")
    return resolve_stored(architecture, architecture if trusted else None, folder)(0)


def _rebuilt(template: nn.Module, state: Mapping[str, Tensor], folder: Path) -> nn.Module:
    module = copy.deepcopy(template)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputRefused(f"{folder}: its models do not fit the architecture: {reason}") from error
    return module.eval().requires_grad_(False)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
