"""How a model is trained, as a value that is saved with the model, so that shadows can repeat the training."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import UsageError
from pydrift.core.limits import MAX_BATCH, MAX_EPOCHS
from pydrift.core.strict_json import parse_strict_json

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("cosine", "one-cycle")
PRECISIONS = ("float32", "bfloat16")

_MIN_STEPS = 1500  # with fewer, a small network on a small data set (digits) is visibly under-trained
_MIN_EPOCHS = 8
_MAX_SHIFT = 127
# By how much a benign update may depart from a recipe.
_EPOCHS, _RATES, _BATCHES, _MORE_SMOOTHING, _MORE_SHIFT = (0.7, 1.3), (0.5, 2.0), (0.5, 2.0), 0.1, 2
_AUGMENT = re.compile(r"(?:shift:(?P<shift>[1-9][0-9]{0,2}))?(?P<comma>,)?(?P<flip>flip)?")


@dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained. UsageError for a value out of range.

    epochs           passes over the drawn images, up to 1,000,000; 0: as many as give 1,500 steps, and at least 8
    batch_size       images per step, 2..2**20
    learning_rate    the peak of the schedule, > 0
    weight_decay     >= 0; decoupled for adam (AdamW), a part of the gradient for sgd
    label_smoothing  in [0, 1)
    optimizer        "adam", or "sgd" with Nesterov's momentum
    momentum         of sgd, in [0, 1)
    schedule         "cosine": linear warm-up over the first tenth of the steps, then cosine decay to zero;
                     "one-cycle": linear from 1/25 of the peak up to the peak over the first 30 % of the steps, then
                     linear to zero (Smith and Topin, "Super-Convergence", 2018)
    augment          "" for none, "shift:N", "flip" or "shift:N,flip". A shift moves each image by up to N pixels in
                     each direction and fills in zeros (padding by N and a random crop). A flip mirrors half of the
                     images
    precision        "float32", or "bfloat16": torch trains, with products in bfloat16 where its autocast has them,
                     which is faster on GPUs

    Residual networks train fast on a GPU with sgd, the one-cycle schedule, label smoothing of 0.2, "shift:2,flip" and
    bfloat16, as in K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
    """

    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    optimizer: str = "adam"
    momentum: float = 0.9
    schedule: str = "cosine"
    augment: str = ""
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not (isinstance(self.epochs, int) and isinstance(self.batch_size, int)):
            raise UsageError(f"recipe: epochs and batch_size must be integers, got {self.epochs} and {self.batch_size}")
        if not (0 <= self.epochs <= MAX_EPOCHS and 2 <= self.batch_size <= MAX_BATCH):
            raise UsageError(
                f"recipe: epochs must be in 0..{MAX_EPOCHS} and batch_size in 2..{MAX_BATCH}, "
                f"got {self.epochs} and {self.batch_size}"
            )
        in_range = self.learning_rate > 0 and self.weight_decay >= 0 and 0 <= self.label_smoothing < 1
        if not (in_range and math.isfinite(self.learning_rate + self.weight_decay)):
            raise UsageError(f"recipe: learning_rate > 0, weight_decay >= 0, 0 <= label_smoothing < 1, got {self}")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"recipe: optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"recipe: momentum must be in [0, 1), got {self.momentum}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"recipe: schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"recipe: precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        self._augmentation()

    def epochs_for(self, images: int) -> int:
        """The number of passes over `images` images that this recipe makes."""
        if self.epochs:
            return self.epochs
        steps_per_epoch = max(1, images // self.batch_size)
        return max(_MIN_EPOCHS, math.ceil(_MIN_STEPS / steps_per_epoch))

    def steps_per_epoch(self, images: int) -> int:
        """The number of whole batches in `images` images; an incomplete last batch is left out."""
        return images // self.batch_size_for(images)

    def batch_size_for(self, images: int) -> int:
        """The batch size, or the number of images if that is smaller."""
        return min(self.batch_size, images)

    def rates(self, images: int) -> NDArray[np.float64]:
        """The learning rate of each step of training on `images` images: float64 [epochs * steps per epoch]."""
        total = self.epochs_for(images) * self.steps_per_epoch(images)
        step = np.arange(total)
        if self.schedule == "cosine":
            warmup = max(1, total // 10)
            falling = 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(1, total - warmup)))
            return self.learning_rate * np.where(step < warmup, (step + 1) / warmup, falling)
        peak = max(1, round(0.3 * total))
        return self.learning_rate * np.interp(step, [0, peak, total], [1 / 25, 1, 0])

    def epoch(self, seed: int, epoch: int, images: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Which images the batches of an epoch take, and their augmentation: a pure function of (seed, epoch, images).

        Returns order int64 [steps * batch size], a prefix of a permutation, and augmentation int8
        [steps * batch size, 3] (down, right, flip; see `pydrift.ops.shadow_train`), or [0, 3] without any.
        """
        random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        taken = self.steps_per_epoch(images) * self.batch_size_for(images)
        order = random.permutation(images)[:taken]
        shift, flip = self._augmentation()
        if not (shift or flip):
            return order, np.zeros((0, 3), np.int8)
        augmentation = np.zeros((taken, 3), np.int8)
        augmentation[:, :2] = random.integers(-shift, shift, (taken, 2), endpoint=True)
        augmentation[:, 2] = random.integers(0, 2, taken) if flip else 0
        return order, augmentation

    def continued(self, images: int) -> TrainingRecipe:
        """The recipe for going on from trained weights: a quarter of the epochs and of the learning rate."""
        return replace(self, epochs=math.ceil(self.epochs_for(images) / 4), learning_rate=self.learning_rate / 4)

    def varied(self, seed: int, images: int) -> TrainingRecipe:
        """A recipe by which a benign update might have been trained: a pure function of (self, seed, images).

        Each of five values changes with probability 1/2:
        * epochs by up to 30 %;
        * the learning rate by up to a factor of 2 (log-uniform);
        * the batch size to one half or the double;
        * label smoothing by up to 0.1 more;
        * the shift by one or two pixels more.
        """
        random = np.random.Generator(np.random.Philox(seed))
        departs = random.random(5) < 0.5
        epochs = max(1, round(self.epochs_for(images) * (random.uniform(*_EPOCHS) if departs[0] else 1)))
        rate = self.learning_rate * (2 ** random.uniform(-1, 1) if departs[1] else 1)
        batch_size = max(2, round(self.batch_size * (random.choice(_BATCHES) if departs[2] else 1)))
        smoothing = self.label_smoothing + (random.uniform(0, _MORE_SMOOTHING) if departs[3] else 0)
        shift, flip = self._augmentation()
        shift = min(shift + int(random.integers(1, _MORE_SHIFT + 1)), _MAX_SHIFT) if departs[4] else shift
        augment = ",".join([f"shift:{shift}"] * (shift > 0) + ["flip"] * flip)
        return replace(
            self,
            epochs=epochs,
            learning_rate=float(rate),
            batch_size=batch_size,
            label_smoothing=min(float(smoothing), 0.99),
            augment=augment,
        )

    def departures(self, other: TrainingRecipe, images: int) -> list[str]:
        """The names of the fields in which another recipe differs from this one, on so many images."""
        return [f.name for f in fields(self) if self._resolved(f.name, images) != other._resolved(f.name, images)]

    def outside_varied(self, other: TrainingRecipe, images: int) -> list[str]:
        """The names of the fields in which another recipe differs by more than `varied` ever makes it."""
        shift, flip = self._augmentation()
        other_shift, other_flip = other._augmentation()
        rounding = 0.5 / self.epochs_for(images)  # an epoch is whole, and so is half a batch
        low, high = _EPOCHS[0] - rounding, _EPOCHS[1] + rounding
        inside = {
            "epochs": low <= other.epochs_for(images) / self.epochs_for(images) <= high,
            "learning_rate": _RATES[0] <= other.learning_rate / self.learning_rate * (1 + 1e-9) <= _RATES[1] + 1e-6,
            "batch_size": _BATCHES[0] - 0.5 / self.batch_size <= other.batch_size / self.batch_size <= _BATCHES[1],
            "label_smoothing": 0 <= other.label_smoothing - self.label_smoothing <= _MORE_SMOOTHING + 1e-9,
            "augment": flip == other_flip and 0 <= other_shift - shift <= _MORE_SHIFT,
        }
        return [name for name in self.departures(other, images) if not inside.get(name, False)]

    def _resolved(self, name: str, images: int) -> Any:
        return self.epochs_for(images) if name == "epochs" else getattr(self, name)

    def to_json(self) -> str:
        """The fields as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainingRecipe:
        """Reads the text of `to_json`. UsageError for anything else."""
        try:
            raw = parse_strict_json(text.encode())
            unknown = set(raw) - {f.name for f in fields(cls)}
            if unknown:
                raise ValueError(f"unknown keys {sorted(unknown)}")
            return cls(**raw)
        except (TypeError, ValueError) as error:
            raise UsageError(f"recipe: not readable: {error}") from error

    def _augmentation(self) -> tuple[int, bool]:
        """The largest shift in pixels, and whether images are mirrored."""
        match = _AUGMENT.fullmatch(self.augment)
        shift = int(match["shift"] or 0) if match else 0
        if match is None or bool(match["comma"]) != (match["shift"] is not None and match["flip"] is not None):
            raise UsageError(f"recipe: augment must be shift:N, flip or shift:N,flip, got {self.augment!r}")
        if shift > _MAX_SHIFT:
            raise UsageError(f"recipe: augment shifts by at most {_MAX_SHIFT} pixels, got {self.augment!r}")
        return shift, match["flip"] is not None
