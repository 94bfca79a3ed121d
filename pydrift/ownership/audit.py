"""Ownership audit: was a suspect made from the images that a victim was trained on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pydrift.core.parallel import with_one_blas_thread
from pydrift.core.progress import Clock, Progress, Silent
from pydrift.data import LabelledImages
from pydrift.models.classifier import exact_arithmetic
from pydrift.models.intake import Model
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops.environment import describe_environment
from pydrift.ownership.case import Case, CaseModel, open_case
from pydrift.ownership.decision import Decision, Decisions, OwnershipEmbeddings, decide
from pydrift.ownership.embeddings import Embedding, ImageEmbeddings
from pydrift.ownership.independent_models import ModelTraining, TrainedModels, train_independent_models
from pydrift.ownership.measurement import measure, measure_accuracy
from pydrift.ownership.reasons import explain_results, explain_training
from pydrift.ownership.registry import select_embedding
from pydrift.ownership.regressors import Logistic, Perceptron
from pydrift.ownership.result import Null, OwnershipProvenance, OwnershipReport, SuspectResult
from pydrift.ownership.roles import Roles
from pydrift.ownership.settings import OwnershipSettings
from pydrift.training import Train


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
    """Decides for every suspect whether it was made from the private data, in whatever way.

    victim        the model that was trained on the private data: an nn.Module that maps float32 [N, C, H, W] in [0, 1]
                  to logits [N, K], or a model file
    suspects      the suspected models, by name or in a list; their architectures may differ
    private       images that the victim was trained on, and that no independent model has seen: LabelledImages, (x, y),
                  an iterable of (x, y), or a source such as "cifar10:DIR"
    public        images of the same kind that the victim has not seen. Suspects are asked about some of them. The
                  others train reference and independent models: the more there are, the better
    embedding     "blind-walk" (labels only, few queries), "min-gd" (white box), or an embedding with other settings
    samples       private images that each suspect is asked about, and twice as many public ones; at least 5
    fit_on        at most so many further images of each kind teach the confidence regressors; at least 20
    independents  independent models that calibrate p, an even number; the least p is 1 / (independents + 1)
    references    reference models, trained on other images, that define what is usual; an even number
    alpha         level of the test, in (0, 1): p <= alpha means "stolen"
    seed          of all draws and initial weights, in 0..2**63 - 1
    recipe        how these models are trained; default: the recipe in the victim's file, else TrainingRecipe(). Each
                  model varies it a little (`TrainingRecipe.varied`)
    train         a training function of your own instead: (x, y, seed) -> nn.Module of the victim's architecture
    arch          the architecture, for model files that do not name it
    device        default: a CUDA device if torch sees one, else the CPU
    resume_dir    folder for finished models, so that an interrupted run can go on
    progress      is told about each phase

    The same seed on the same machine gives the same result. UsageError: a setting is out of range. InputRefused: too
    few images, an image that is both private and public, or suspects with other inputs or classes than the victim.

    Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021, for
    embeddings, regressor and Welch test. Calibration, references, agreement and knowledge are ours.
    """
    chosen = select_embedding(embedding)
    settings = OwnershipSettings(chosen, samples, fit_on, independents, references, alpha, seed)
    case = open_case(victim, suspects, private, public, arch, device)
    roles = Roles.of(len(case.private), len(case.public), samples, fit_on, seed)
    training = ModelTraining(recipe or case.victim.model.recipe, train, resume_dir, device)
    clock = Clock()
    with exact_arithmetic(), progress or Silent() as progress:
        with clock("train independent models"):
            trained = train_independent_models(case, roles, settings, training, progress)
        with clock("embed"):
            measured = measure(case, roles, settings.embedding, trained, progress)
        with clock("decide"):
            decisions = with_one_blas_thread(decide)(
                measured.embeddings,
                measured.regressor_data,
                [Perceptron(seed=seed), Logistic()],
                alpha=alpha,
                seed=seed,
            )
    of_victim, *of_suspects = _results(case, roles, measured.embeddings, decisions)
    return OwnershipReport(
        suspects=tuple(of_suspects),
        victim=of_victim,
        null=_null(trained, decisions),
        alpha=alpha,
        samples=samples,
        embedding=settings.embedding.title,
        private=case.private.source,
        public=case.public.source,
        reasons=(
            *explain_training(case, roles, training),
            *explain_results(settings.embedding, trained, (of_victim, *of_suspects)),
        ),
        provenance=_provenance(case, roles, settings, trained, clock),
    )


def _results(
    case: Case, roles: Roles, embeddings: OwnershipEmbeddings, decisions: Decisions
) -> Iterator[SuspectResult]:
    """The victim's result and those of the suspects, in this order."""
    asked = case.asked_images(roles)
    yield _result(case.victim, asked, embeddings.victim, decisions.victim, embeddings.num_private)
    for suspect in case.suspects:
        decision = decisions.suspects[suspect.name]
        yield _result(suspect, asked, embeddings.suspects[suspect.name], decision, embeddings.num_private)


def _result(
    model: CaseModel, asked: LabelledImages, embeddings: ImageEmbeddings, decision: Decision, num_private: int
) -> SuspectResult:
    accuracy_private, accuracy_public = measure_accuracy(model, asked, num_private)
    return SuspectResult(
        name=model.name,
        sha256=model.model.sha256,
        verdict=decision.verdict,
        p=decision.evidence[0].p_calibrated,
        evidence=decision.evidence,
        by_samples=decision.by_samples,
        queries=embeddings.queries + len(asked),
        accuracy_private=accuracy_private,
        accuracy_public=accuracy_public,
        reasons=decision.reasons,
        needed=decision.needed,
    )


def _null(trained: TrainedModels, decisions: Decisions) -> Null:
    plan = trained.independents.plan
    return Null(
        references=trained.references.plan.count,
        independents=plan.count,
        draw=plan.draw.describe(plan.images),
        accuracy=trained.independents.accuracy,
        knowledge=decisions.null_knowledge,
        knowledge_widened=decisions.null_knowledge_widened,
    )


def _provenance(
    case: Case, roles: Roles, settings: OwnershipSettings, trained: TrainedModels, clock: Clock
) -> OwnershipProvenance:
    embedding, plan = settings.embedding, trained.references.plan
    return OwnershipProvenance(
        **describe_environment(case.device),
        seed=settings.seed,
        victim=case.victim.model.name,
        victim_sha256=case.victim.model.sha256,
        private_sha256=case.private.sha256,
        public_sha256=case.public.sha256,
        settings={
            "embedding": asdict(embedding) if is_dataclass(embedding) else repr(embedding),
            "fit_on": len(roles.private_fitted),
            "recipe": plan.own_training or asdict(plan.recipe),
        },
        paths={one.name: one.classifier.path for one in (case.victim, *case.suspects)},
        seconds=clock.seconds,
    )
