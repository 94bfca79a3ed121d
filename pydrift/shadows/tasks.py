"""A folder of tasks: the plan of a bank on disk, and its shadows in blocks that any process may train.

    DIR/plan.json                what to train, on which data, in blocks of how many models; written once
    DIR/start-HASH.safetensors   the weights to continue from, if the plan fine-tunes a model of a known architecture
    DIR/claims/00002.1           the worker that trains block 2 (see pydrift.shadows.claim)
    DIR/blocks/00002/            the models of block 2, and MANIFEST.json with their hashes, written last: it is done

The folder holds the whole state. A block is written under a hidden name and synced. Then it gets its own name in one
step that only the first worker can make. So a worker may be killed at any time. What it had not published is trained
again (natively from its last checkpoint, see pydrift.shadows.checkpoint), and nothing counts twice. A shadow depends
only on the plan and its own number. So the bank has the same bits for all workers, blocks and orders.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn

from pydrift.core.artifact import Format, decode_fields, encode
from pydrift.core.errors import InputRefused, PydriftError, UsageError
from pydrift.core.files import sync_folder, write_atomic
from pydrift.core.manifest import (
    MANIFEST,
    check_digest,
    read_manifest,
    refuse_manifest_folder,
    verify_manifest,
    write_manifest,
)
from pydrift.core.run_store import PlanFile, failpoint
from pydrift.shadows.bank import ShadowBank, WeightStack, model_bytes, model_name, read_state
from pydrift.shadows.checkpoint import BlockCheckpoint
from pydrift.shadows.claim import Holder, claimed, forget, holder
from pydrift.shadows.plan import ShadowPlan

_PLAN = Format("shadow plan", 2, "Plan the shadows again in another folder.")
_BLOCK = Format("shadow block", 3, "Train the block again.")
_POLL_S = 0.5
_MAX_SECONDS = 1e9  # that the training of a block can have taken

Trained = tuple[Mapping[str, Tensor], float | None]
"""The state dict of a trained shadow and its accuracy on images that it did not see."""


@dataclass(frozen=True)
class FolderStatus:
    """How far the work is.

    shadows             how many shadows are planned
    done                how many of them are published
    blocks_done         the numbers of the published blocks
    held                the worker that trains each block in work, by the number of the block
    free                the numbers of the blocks that no worker trains
    seconds_per_shadow  of one worker, on average over the published blocks; None before the first one
    """

    shadows: int
    done: int
    blocks_done: tuple[int, ...]
    held: dict[int, Holder]
    free: tuple[int, ...]
    seconds_per_shadow: float | None


@dataclass(frozen=True)
class _Content:
    """plan.json."""

    plan: dict[str, Any]
    block: Annotated[int, Meta(ge=1)]
    data: str | None


@dataclass(frozen=True)
class _BlockFacts:
    """What the manifest of a block records beside the hashes of its models.

    plan      SHA-256 of the plan's file
    accuracy  of each shadow on images that it did not see
    seconds   how long the training took
    worker    that trained it: host and pid
    """

    plan: str
    accuracy: list[float | None]
    seconds: Annotated[float, Meta(ge=0, lt=_MAX_SECONDS)]
    worker: dict[str, Any]


@dataclass(frozen=True)
class TaskFolder:
    """A plan on disk.

    block  the number of models in a block
    data   the source of the data; None if it has no name
    """

    path: Path
    plan: ShadowPlan
    block: int
    data: str | None
    _file: PlanFile = field(repr=False)

    @classmethod
    def adopt(cls, path: str | Path, plan: ShadowPlan, block: int, data: str | None = None) -> TaskFolder:
        """The folder of this plan. If there is none, it is made, with blocks of `block` models.

        If several processes make it at once, all of them use the folder of the first. UsageError where the folder
        holds another plan; it names the first difference.
        """
        path = Path(path)
        refuse_manifest_folder(path)
        if block < 1:
            raise UsageError(f"a block needs at least one shadow, got {block}")
        PlanFile.adopt(_PLAN, path, encode(_Content(plan.to_dict(), block, data)))
        folder = cls.open(path)
        folder._file.refuse_other(folder.plan.to_dict(), plan.to_dict(), "plan")
        return folder

    @classmethod
    def open(cls, path: str | Path) -> TaskFolder:
        """The folder of a plan that was made before. UsageError: there is none. InputRefused: it cannot be read."""
        path = Path(path)
        if not PlanFile.exists(path):
            raise UsageError(f"{path}: holds no plan of shadows; make one first: pydrift shadow plan")
        file = PlanFile.read(_PLAN, path)
        with _PLAN.reading(file.path):
            content = _Content(**decode_fields(_Content, file.content))
            return cls(path, ShadowPlan.from_dict(content.plan), content.block, content.data, file)

    @property
    def start(self) -> Path:
        """The file of the weights to continue from. Its name contains their hash, so no two plans share a file."""
        return start_file(self.path, self.plan)

    @property
    def blocks(self) -> range:
        """The numbers of all blocks."""
        return range(-(-self.plan.count // self.block))

    def numbers(self, block: int) -> range:
        """The numbers of the shadows in a block. UsageError where there is no such block."""
        if block not in self.blocks:
            raise UsageError(f"{self.path}: has no block {block}, the last one is {self.blocks[-1]}")
        return range(block * self.block, min((block + 1) * self.block, self.plan.count))

    def checkpoint(self, numbers: Sequence[int]) -> BlockCheckpoint:
        """The checkpoint of the block of these shadows; it is removed when the block is published."""
        block = numbers[0] // self.block
        file = self.path / "blocks" / f".{_name(block)}.unfinished" / "epoch.safetensors"
        return BlockCheckpoint(file, f"block {block} of {self._file.sha256}")

    def is_done(self, block: int) -> bool:
        """Whether the block is published."""
        return (self._folder(block) / MANIFEST).exists()

    def work(
        self,
        train: Callable[[Sequence[int]], Sequence[Trained]],
        *,
        blocks: Iterable[int] | None = None,
        at_most: int | None = None,
        wait: bool = False,
        advance: Callable[[int], None] = lambda shadows: None,
    ) -> list[int]:
        """Trains the blocks that are not published and that no other worker trains; returns the numbers of its blocks.

        train     trains the shadows of these numbers
        blocks    the numbers of the blocks to train; default: all
        at_most   the most blocks to train
        wait      whether to wait for blocks of other workers, and to train them if those workers end before
        advance   called with the number of shadows of each block that is done, here or elsewhere

        PydriftError where a block cannot be written (disk full). UsageError where the plan was changed meanwhile.
        """
        todo = list(self.blocks if blocks is None else blocks)
        trained: list[int] = []
        while True:
            left = []
            for block in todo:
                if len(trained) == at_most:
                    return trained
                if not self.is_done(block):
                    with claimed(self.path / "claims", _name(block)) as mine:
                        if not mine:
                            left.append(block)
                            continue
                        if not self.is_done(block) and self._train_and_publish(block, train):
                            trained.append(block)
                        forget(self.path / "claims", _name(block))
                advance(len(self.numbers(block)))
            if not left or (not wait and left == todo):
                return trained
            if left == todo:
                time.sleep(_POLL_S)
            todo = left

    def status(self) -> FolderStatus:
        """How far the work is. InputRefused where a block's manifest is not readable."""
        done = [block for block in self.blocks if self.is_done(block)]
        others = [block for block in self.blocks if block not in set(done)]
        holders = {block: holder(self.path / "claims", _name(block)) for block in others}
        seconds = [_facts(folder, read_manifest(folder)).seconds for folder in map(self._folder, done)]
        shadows = sum(len(self.numbers(block)) for block in done)
        return FolderStatus(
            shadows=self.plan.count,
            done=shadows,
            blocks_done=tuple(done),
            held={block: who for block, who in holders.items() if who is not None},
            free=tuple(block for block, who in holders.items() if who is None),
            seconds_per_shadow=sum(seconds) / shadows if shadows else None,
        )

    def bank(self, template: nn.Module) -> ShadowBank:
        """The finished bank, after a check of every file. `template` is a module of the plan's architecture.

        UsageError where blocks are missing. InputRefused names a file that is damaged, foreign or behind a link.
        """
        missing = [block for block in self.blocks if not self.is_done(block)]
        if missing:
            raise UsageError(f"{self.path}: {len(missing)} of {len(self.blocks)} blocks are not trained yet")
        stack, accuracy = WeightStack(template, self.plan.count), []
        for block in self.blocks:
            try:
                accuracy += self._read(block, stack)
            except InputRefused as error:
                raise InputRefused(f"{error}; delete {self._folder(block)} and train the block again") from error
        return ShadowBank(self.plan, self.plan.members(), tuple(accuracy), stack.weights, stack.template)

    def _read(self, block: int, stack: WeightStack) -> list[float | None]:
        folder, names = self._folder(block), {model_name(k) for k in self.numbers(block)}
        if folder.is_symlink():
            raise InputRefused(f"{folder}: is a symbolic link")
        facts = _facts(folder, read_manifest(folder))
        manifest = verify_manifest(folder)
        if set(manifest["files"]) != names:
            raise InputRefused(f"{folder}: not block {block} of this plan")
        if facts.plan != self._file.sha256:
            raise InputRefused(f"{folder}: was trained by another plan")
        if len(facts.accuracy) != len(names):
            raise InputRefused(f"{folder / MANIFEST}: not an accuracy for each shadow")
        for k in self.numbers(block):
            stack.put(k, read_state(folder, model_name(k), manifest), str(folder / model_name(k)))
        return facts.accuracy

    def _train_and_publish(self, block: int, train: Callable[[Sequence[int]], Sequence[Trained]]) -> bool:
        """Trains and publishes a block. False if another worker published it first; then the other's block stays."""
        began = time.perf_counter()
        made = train(self.numbers(block))
        seconds = time.perf_counter() - began
        hidden = self.path / "blocks" / f".{_name(block)}.{secrets.token_hex(8)}"
        try:
            accuracy = []
            for k, (state, unseen) in zip(self.numbers(block), made, strict=True):
                failpoint(f"shadow/{k}", "before")
                write_atomic(hidden / model_name(k), model_bytes(self.plan, k, state))
                failpoint(f"shadow/{k}", "between")
                accuracy.append(unseen)
            worker = {"host": platform.node(), "pid": os.getpid()}
            facts = _BlockFacts(self._file.sha256, accuracy, round(seconds, 3), worker)
            write_manifest(hidden, {**_BLOCK.heading(), **encode(facts)})
            self._file.check_unchanged()
            os.rename(hidden, self._folder(block))
            sync_folder(hidden.parent)
        except OSError as error:
            if self.is_done(block):
                return False
            raise PydriftError(
                f"{self.path}: block {block} cannot be written: {error.strerror}; it counts as not trained"
            ) from error
        finally:
            # If it is published, remove the checkpoint and what killed workers left; else remove our own files.
            if self.is_done(block):
                for unpublished in hidden.parent.glob(f".{_name(block)}.*"):
                    shutil.rmtree(unpublished, ignore_errors=True)
            shutil.rmtree(hidden, ignore_errors=True)
        for k in self.numbers(block):
            failpoint(f"shadow/{k}", "after")
        return True

    def _folder(self, block: int) -> Path:
        return self.path / "blocks" / _name(block)


def _name(block: int) -> str:
    return f"{block:05d}"


def _facts(folder: Path, manifest: Any) -> _BlockFacts:
    """What a block's manifest records. InputRefused where it has another kind or version, or cannot be read."""
    _BLOCK.check(manifest, folder)
    facts = _BLOCK.without_heading(check_digest(folder, manifest), folder)
    facts.pop("files", None)
    with _BLOCK.reading(folder / MANIFEST):
        return _BlockFacts(**decode_fields(_BlockFacts, facts))


def start_file(folder: Path, plan: ShadowPlan) -> Path:
    """Where the start weights must be written before the plan is (see TaskFolder.start)."""
    return folder / f"start-{plan.start_sha256}.safetensors"
