"""Dataset inference: does a suspect contain knowledge of the images that a victim was trained on?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pydrift.core.checks import check_seed
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import sha256_bytes
from pydrift.core.manifest import refuse_manifest_folder
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import each, with_one_blas_thread
from pydrift.core.progress import Clock, Progress, Silent
from pydrift.data import LabelledImages, take_images
from pydrift.models.classifier import Classifier, choose_device, exact_arithmetic, freeze
from pydrift.models.intake import AuditedModel, Model, as_audited_model, check_num_classes
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops import native_status
from pydrift.ownership.blind_walk import MAX_QUERIES, BlindWalk
from pydrift.ownership.confidence import Logistic, Perceptron
from pydrift.ownership.embedding import Embedded, Embedding, nearest_classes
from pydrift.ownership.judge import Answers, Judged, judge
from pydrift.ownership.min_gd import MinGd
from pydrift.ownership.result import Null, OwnershipProvenance, OwnershipReport, SuspectResult
from pydrift.ownership.roles import Roles
from pydrift.shadows import Draw, ShadowBank, train_shadows
from pydrift.training import Train
from pydrift.version import __version__

EMBEDDINGS: dict[str, Embedding] = {"blind-walk": BlindWalk(), "min-gd": MinGd()}
MIN_SAMPLES, MIN_INDEPENDENTS, MIN_REFERENCES = 5, 10, 8
_CLASSES = 10  # nearest ones that distances are measured to
_MODELS_AT_ONCE = 16  # that are made ready together
_MUCH_BETTER = 0.1  # in accuracy on the public images that are asked about, which are few


def ownership_audit(
    victim: Model,
    suspects: Mapping[str, Model] | Sequence[Model],
    private: Any,
    public: Any,
    *,
    embedding: str | Embedding = "blind-walk",
    samples: int = 60,
    fit_on: int = 250,
    independents: int = 100,
    references: int = 24,
    alpha: float = 0.01,
    seed: int = 0,
    recipe: TrainingRecipe | None = None,
    train: Train | None = None,
    arch: str | None = None,
    device: str | None = None,
    resume_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> OwnershipReport:
    """Says of every suspect whether it was made of the private data, by whatever way.

    victim        the model that was trained on the private data: an nn.Module that maps float32 [N, C, H, W] in [0, 1]
                  to logits, or a model file
    suspects      models under suspicion, by name or in a list; of any architecture
    private       images that the victim was trained on and nobody else should have been. LabelledImages, (x, y), any
                  iterable of (x, y), or a source such as "cifar10:DIR"
    public        images of the same kind that the victim has not seen. Some are asked about; on the others, benign
                  models are trained: the more there are, the better
    embedding     "blind-walk" (labels only, few queries), "min-gd" (white box), or one with settings of your own
    samples       private images that each suspect is asked about, and twice as many public ones
    fit_on        further images of each kind, at most, on which the confidence regressors learn from the victim
    independents  benign models that p is calibrated on; the least p is 1 / (independents + 1)
    references    benign models, of other images, that say what is usual
    recipe        how to train these; default: the one recorded in the victim's file, else TrainingRecipe(). Each
                  departs from it as benign models do (`TrainingRecipe.varied`)
    train         or the user's own training, (x, y, seed) -> nn.Module of the victim's architecture
    resume_dir      folder for finished models, so that a killed run goes on where it was

    UsageError: settings out of range. InputRefused: too few images, an image that is private and public, suspects of
    other images or classes. The same seed on the same machine gives the same result.

    Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021, for
    embeddings, regressor and Welch test. Calibration, references, agreement and knowledge are ours (README).
    """
    measure = _embedding(embedding)
    _check_settings(samples, fit_on, independents, references, alpha, seed)
    named = _named(suspects)
    owner = as_audited_model(victim, "victim", arch)
    accused = {name: as_audited_model(model, name, arch) for name, model in named.items()}
    ours, theirs = take_images(private), take_images(public)
    where, clock = choose_device(device), Clock()
    shape = ours.input_shape
    asked = freeze(owner.module, shape, where, "victim")
    ours, theirs = _fitting(ours, theirs, asked.num_classes)
    roles = Roles.of(len(ours), len(theirs), samples, fit_on, seed)
    models = {name: freeze(subject.module, shape, where, name) for name, subject in accused.items()}
    for name, model in models.items():
        check_num_classes(model.num_classes, name, asked.num_classes, "the victim")
    known = recipe or owner.recipe
    shown = _joined(ours.subset(roles.private_asked), theirs.subset(roles.public_asked))
    fitted_on = _joined(ours.subset(roles.private_fitted), theirs.subset(roles.public_fitted))
    with exact_arithmetic(), progress or Silent() as told:
        if resume_dir is not None:
            refuse_manifest_folder(resume_dir)
        with clock("train benign models"):
            banks = [
                train_shadows(
                    owner, theirs.subset(pool), count, draw=Draw("halves"),
                    recipe=known or TrainingRecipe(), recipes="varied" if train is None else "same", train=train,
                    seed=derived_seed(seed, phase), device=device, progress=told,
                    resume_dir=None if resume_dir is None else Path(resume_dir) / name,
                )
                for name, pool, count, phase in (
                    ("references", roles.reference_pool, references, Phase.REFERENCES),
                    ("independents", roles.independent_pool, independents, Phase.INDEPENDENTS),
                )
            ]  # fmt: skip
        with clock("embed"):
            told.phase("embedding", 2 + len(models) + references + independents)
            classes, of_lesson = each(partial(nearest_classes, asked, count=_CLASSES), (shown.x, fitted_on.x))
            (lesson,) = each(partial(_embedded, measure, fitted_on, of_lesson), [("victim", asked)])
            told.advance()
            embed = partial(_embedded, measure, shown, classes)
            of_victim, *of_suspects = _all_embedded(embed, [("victim", asked), *models.items()], told)
            of_references, of_independents = (_bank_embedded(embed, bank, where, told) for bank in banks)
        with clock("judge"):
            judged = with_one_blas_thread(judge)(
                Answers(
                    samples, of_victim, dict(zip(models, of_suspects, strict=True)), of_references, of_independents
                ),
                lesson=lesson.features,
                private=np.arange(len(fitted_on)) < len(roles.private_fitted),
                regressors=[Perceptron(seed=seed), Logistic()],
                alpha=alpha,
                seed=seed,
            )
    of_owner = _result("victim", owner, asked, of_victim, judged.victim, shown, samples)
    results = tuple(
        _result(name, accused[name], models[name], of_suspect, one, shown, samples)
        for (name, one), of_suspect in zip(judged.suspects.items(), of_suspects, strict=True)
    )
    return OwnershipReport(
        suspects=results,
        victim=of_owner,
        null=Null(
            references,
            independents,
            banks[1].plan.draw.describe(banks[1].plan.images),
            banks[1].accuracy,
            judged.null_knowledge,
            judged.null_knowledge_widened,
        ),
        alpha=alpha,
        samples=samples,
        embedding=measure.title,
        private=ours.source,
        public=theirs.source,
        reasons=tuple(_reasons(owner, known, train, roles, len(ours), measure, banks[1], (of_owner, *results))),
        provenance=OwnershipProvenance(
            pydrift=__version__,
            torch=torch.__version__,
            device=str(where),
            native=native_status().describe(where.type),
            seed=seed,
            victim=owner.name,
            victim_sha256=owner.sha256,
            private_sha256=ours.sha256,
            public_sha256=theirs.sha256,
            settings={
                "embedding": asdict(measure) if is_dataclass(measure) else repr(measure),
                "fit_on": len(roles.private_fitted),
                "recipe": banks[0].plan.own_training or asdict(banks[0].plan.recipe),
            },
            paths={"victim": asked.path, **{name: model.path for name, model in models.items()}},
            seconds=clock.seconds,
        ),
    )


def _embedding(embedding: str | Embedding) -> Embedding:
    if not isinstance(embedding, str):
        return embedding
    if embedding not in EMBEDDINGS:
        raise UsageError(f"no such embedding: {embedding!r}; known are {', '.join(EMBEDDINGS)}")
    return EMBEDDINGS[embedding]


def _check_settings(samples: int, fit_on: int, independents: int, references: int, alpha: float, seed: int) -> None:
    if not 0 < alpha < 1:
        raise UsageError(f"alpha must lie between 0 and 1, got {alpha:g}")
    least = {"samples": (samples, MIN_SAMPLES), "fit_on": (fit_on, Roles.MIN_FITTED)}
    least |= {"independents": (independents, MIN_INDEPENDENTS), "references": (references, MIN_REFERENCES)}
    for name, (value, bound) in least.items():
        if value < bound:
            raise UsageError(f"{name} must be at least {bound}, got {value}")
    for name, value in (("references", references), ("independents", independents)):
        if value % 2:
            raise UsageError(f"{name} are trained on complementary halves: an even number is needed, got {value}")
    if alpha * (independents + 1) < 1 - 1e-9:
        raise UsageError(
            f"with {independents} independent models no p is below 1/{independents + 1}; alpha {alpha:g} needs "
            f"{2 * ceil((1 / alpha - 1) / 2 - 1e-9)} of them"
        )
    check_seed(seed)


def _named(suspects: Mapping[str, Model] | Sequence[Model]) -> dict[str, Model]:
    """By name; those of a list by their file's name, or their number."""
    if isinstance(suspects, Mapping):
        named = dict(suspects)
    else:
        names = [
            Path(model).name if isinstance(model, str | Path) else f"suspect {k}" for k, model in enumerate(suspects)
        ]
        twice = sorted({name for name in names if names.count(name) > 1})
        names = [str(model) if name in twice else name for name, model in zip(names, suspects, strict=True)]
        named = dict(zip(names, suspects, strict=True))
        if len(named) < len(names):
            raise UsageError(f"suspects: {twice[0]} is named twice")
    if not named:
        raise UsageError("suspects: name at least one model")
    if "victim" in named:
        raise UsageError("suspects: 'victim' is the victim's name; give this one another")
    return named


def _fitting(private: LabelledImages, public: LabelledImages, classes: int) -> tuple[LabelledImages, LabelledImages]:
    """Both without what occurs a second time, and with as many class names as the victim has classes.

    InputRefused unless they are images of one kind and one set of classes, none of them in both.
    """
    if private.input_shape != public.input_shape:
        shapes = ("x".join(map(str, images.input_shape)) for images in (public, private))
        raise InputRefused("public: images of {}, but the private ones are of {}".format(*shapes))
    names = max(private.class_names, public.class_names, key=len)
    for images in (private, public):
        if images.class_names != names[: images.num_classes]:
            raise InputRefused("public: the private images have other class names, or in another order")
    if len(names) > classes:
        check_num_classes(classes, "the victim", len(names), "the set of images")
    names += tuple(str(k) for k in range(len(names), classes))
    seen: dict[str, int] = {}
    fitting = []
    for images, is_private in ((private, True), (public, False)):
        kept = []
        for n, row in enumerate(images.x.numpy()):
            digest = sha256_bytes(row.tobytes())
            if digest not in seen:
                kept.append(n)
            elif not is_private and seen[digest] >= 0:
                raise InputRefused(f"public: image {n} is private image {seen[digest]}; no image may be in both")
            seen.setdefault(digest, n if is_private else -1)
        fitting.append(replace(images if len(kept) == len(images) else images.subset(kept), class_names=names))
    return fitting[0], fitting[1]


def _joined(private: LabelledImages, public: LabelledImages) -> LabelledImages:
    x, y = torch.cat([private.x, public.x]), torch.cat([private.y, public.y])
    return LabelledImages(x, y, private.class_names, private.source)


def _embedded(measure: Embedding, images: LabelledImages, classes: Tensor, model: tuple[str, Classifier]) -> Embedded:
    name, classifier = model
    try:
        return measure.embed(classifier, images.x, images.y, classes)
    except InputRefused as error:
        raise InputRefused(f"{name}: {error}") from error


def _all_embedded(
    embed: Callable[[tuple[str, Classifier]], Embedded], models: Iterable[tuple[str, Classifier]], progress: Progress
) -> list[Embedded]:
    """By every model, side by side."""
    found = []
    for embedded in each(embed, models):
        found.append(embedded)
        progress.advance()
    return found


def _bank_embedded(
    embed: Callable[[tuple[str, Classifier]], Embedded], bank: ShadowBank, device: torch.device, progress: Progress
) -> list[Embedded]:
    modules, found = bank.models(), []
    for first in range(0, len(modules), _MODELS_AT_ONCE):
        ready = []
        for k, module in enumerate(modules[first : first + _MODELS_AT_ONCE], start=first):
            name = f"benign model {k}"
            ready.append((name, freeze(module, bank.plan.input_shape, device, name)))
        found += _all_embedded(embed, ready, progress)
    return found


def _result(
    name: str,
    subject: AuditedModel,
    model: Classifier,
    embedded: Embedded,
    judged: Judged,
    shown: LabelledImages,
    private: int,
) -> SuspectResult:
    (likeliest,) = each(partial(nearest_classes, model, count=1), [shown.x])
    right = (likeliest[:, 0] == shown.y).double()
    return SuspectResult(
        name=name,
        sha256=subject.sha256,
        verdict=judged.verdict,
        p=judged.evidence[0].p_calibrated,
        evidence=judged.evidence,
        by_samples=judged.by_samples,
        queries=embedded.queries + len(shown),
        accuracy_private=float(right[:private].mean()),
        accuracy_public=float(right[private:].mean()),
        reasons=judged.reasons,
        needed=judged.needed,
    )


def _reasons(
    owner: AuditedModel,
    known: TrainingRecipe | None,
    train: Train | None,
    roles: Roles,
    private: int,
    measure: Embedding,
    benign: ShadowBank,
    results: Sequence[SuspectResult],
) -> Iterator[str]:
    """What a reader of the verdicts must know."""
    if not (known or train):
        yield (
            "nothing says how the victim was trained, so the benign models were trained by pydrift's default recipe; "
            "the less they resemble what an benign suspect would be, the less p means (pass recipe= or train=)"
        )
    if train is not None:
        yield "benign models were trained by the given function, all in the same way: benign suspects differ more"
    if len(results) > 2:
        yield (
            f"{len(results) - 1} suspects are judged, each for itself: that one of so many benign ones is accused has "
            "a chance of up to that many times alpha"
        )
    if owner.train_size is not None and owner.train_size != private:
        yield (
            f"the victim's file says that it was trained on {owner.train_size} images, but {private} private ones are "
            "given: each of these must be one that it was trained on"
        )
    if (drawn := len(roles.independent_pool) // 2) < private:
        yield (
            f"each benign model saw {drawn} images and the victim {private}: with more public images they would "
            "resemble it more"
        )
    if isinstance(measure, BlindWalk) and (most := max(result.queries for result in results)) > MAX_QUERIES:
        yield (
            f"a model was shown {most:,} images, more than the {MAX_QUERIES:,} that Blind Walk is meant to stay below: "
            "reveal fewer samples where queries are counted"
        )
    accuracy = [value for value in benign.accuracy if value is not None]
    usual = float(np.quantile(accuracy, 0.9)) if accuracy else 1.0
    better = [result.name for result in results if result.accuracy_public > usual + _MUCH_BETTER]
    if better:
        yield (
            f"nine in ten benign models are right on at most {100 * usual:.0f} % of public images, fewer than "
            f"{', '.join(better)}: a model that is better than the benign ones agrees with another such model a little "
            "more than they do, whatever it was trained on"
        )
