"""What determines a bank of shadows, as plain values that a file can hold and another machine can repeat."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pydrift.core.artifact import decode, encode
from pydrift.core.checks import check_seed
from pydrift.core.errors import UsageError
from pydrift.core.files import sha256_bytes
from pydrift.core.limits import MAX_IMAGES, MAX_SHADOWS
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.spelling import spell
from pydrift.core.tensors import tensors_digest
from pydrift.data import LabelledImages
from pydrift.models.intake import AuditedModel
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops import native_status
from pydrift.shadows.draw import Draw
from pydrift.training import Train
from pydrift.version import __version__

UPDATE_MODES = ("retrain", "finetune")
RECIPES = ("same", "varied")


@dataclass(frozen=True)
class ShadowPlan:
    """All that determines a bank: two banks of equal plans are equal, bit for bit.

    count         the number of shadows, K
    update_mode   "retrain": from fresh weights; "finetune": from the start model's weights, by `recipe.continued`
    draw, seed    which images each shadow sees, and everything else that is random
    recipe        how they are trained; it has no meaning where `own_training` is given
    recipes       "same": all by `recipe`; "varied": each shadow by its own `recipe.varied`
    own_training  the identity of the user's own training function (see `function_identity`); None: by recipe
    architecture  a spec or package.module:factory; None: a live module, of which copies are trained
    start_sha256  of the weights to continue from, or of a live module; None where the architecture is enough
    data_sha256   of images and labels
    images        the number of images, N
    input_shape   (C, H, W) of an image
    arithmetic    what the last bits of the weights depend on: device, instruction set, versions (see `arithmetic`)
    """

    count: int
    update_mode: str
    draw: Draw
    seed: int
    recipe: TrainingRecipe
    own_training: str | None
    architecture: str | None
    start_sha256: str | None
    data_sha256: str
    images: int
    input_shape: tuple[int, int, int]
    arithmetic: dict[str, str]
    recipes: str = "same"

    def __post_init__(self) -> None:
        if self.update_mode not in UPDATE_MODES:
            raise UsageError(f"update_mode must be one of {', '.join(UPDATE_MODES)}, got {self.update_mode!r}")
        if self.recipes not in RECIPES:
            raise UsageError(f"recipes must be one of {', '.join(RECIPES)}, got {self.recipes!r}")
        if not 1 <= self.count <= MAX_SHADOWS:
            raise UsageError(f"the number of shadows must be in 1..{MAX_SHADOWS}, got {self.count}")
        if self.draw.kind == "halves" and self.count % 2:
            raise UsageError(f"complementary halves need an even number of shadows, got {self.count}")
        if not 1 <= self.images <= MAX_IMAGES:
            raise UsageError(f"the number of images must be in 1..{MAX_IMAGES}, got {self.images}")
        check_seed(self.seed)

    @classmethod
    def make(
        cls,
        start: AuditedModel,
        data: LabelledImages,
        count: int,
        *,
        update_mode: str,
        draw: Draw,
        seed: int,
        recipe: TrainingRecipe,
        recipes: str = "same",
        user_train: Train | None,
        device: torch.device,
    ) -> ShadowPlan:
        """The plan for shadows of `start` on draws of `data`. UsageError where the arguments do not fit together."""
        draw.indices(seed, len(data), 0)  # refuses to draw more images than there are
        if start.architecture is None:
            start_sha256: str | None = start.sha256
        else:
            start_sha256 = tensors_digest(start.module.state_dict()) if update_mode == "finetune" else None
        return cls(
            count=count,
            update_mode=update_mode,
            draw=draw,
            seed=seed,
            recipe=recipe,
            recipes=recipes,
            own_training=None if user_train is None else function_identity(user_train),
            architecture=start.architecture,
            start_sha256=start_sha256,
            data_sha256=data.sha256,
            images=len(data),
            input_shape=data.input_shape,
            arithmetic=arithmetic(device, start.built_in and user_train is None),
        )

    @property
    def device(self) -> torch.device:
        return torch.device(self.arithmetic["device"])

    def indices(self, k: int) -> NDArray[np.int64]:
        """The indices of the images that shadow k sees: int64, ascending (see Draw.indices)."""
        return self.draw.indices(self.seed, self.images, k)

    def recipe_of(self, k: int) -> TrainingRecipe:
        """The recipe of shadow k. With "finetune", its `continued` is what trains the shadow."""
        if self.recipes == "same":
            return self.recipe
        return self.recipe.varied(derived_seed(self.seed, Phase.RECIPE, k), len(self.indices(k)))

    def members(self) -> NDArray[np.bool_]:
        """bool [K, N]: whether shadow k sees image i."""
        return self.draw.members(self.seed, self.images, self.count)

    def describe(self) -> str:
        """Architecture, update mode and draw in a few words."""
        return f"{self.architecture or 'a live module'}, {self.update_mode}, {self.draw.describe(self.images)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return encode(self)

    @classmethod
    def from_dict(cls, raw: Any) -> ShadowPlan:
        """Reads the values of `to_dict`. ValueError for anything else."""
        plan: ShadowPlan = decode(cls, raw, "plan")
        if plan.start_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", plan.start_sha256):
            raise ValueError("start_sha256 is no SHA-256")
        if not 1 <= int(plan.arithmetic.get("threads", 1)) <= 4096:
            raise ValueError("its number of threads is impossible")
        return plan


def arithmetic(device: torch.device, built_in: bool) -> dict[str, str]:
    """What the last bits of a trained weight depend on, in this process.

    These are the versions, the device, and whether pydrift's kernels or plain torch train. On the CPU they are also the
    instruction sets of both, which PYDRIFT_SIMD and ATEN_CPU_CAPABILITY can lower. A built-in architecture is trained
    with one intra-op thread per model; the user's own module with as many as torch has now.
    """
    versions = {"device": device.type, "pydrift": __version__, "torch": str(torch.__version__)}
    status = native_status()
    versions["kernels"] = status.path(device.type) if status.runs_on(device.type) else "plain torch"
    if device.type == "cuda":
        return {
            **versions,
            "gpu": torch.cuda.get_device_name(device),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }
    return {
        **versions,
        **({} if built_in else {"threads": str(torch.get_num_threads())}),
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
    }


def function_identity(train: Callable[..., nn.Module]) -> str:
    """The identity of the user's training: its name, and a hash of its code where it is a plain function.

    It is the same in every process. Constants and defaults count by their values if these are plain, else by their
    types.
    """
    code = getattr(train, "__code__", None)
    if code is None:
        body = ""
    else:
        parts = (code, getattr(train, "__defaults__", None), getattr(train, "__kwdefaults__", None))
        body = sha256_bytes(spell(parts).encode())[:16]
    return f"{getattr(train, '__qualname__', type(train).__qualname__)} {body}".rstrip()
