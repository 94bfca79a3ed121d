"""The second half of a drift audit: from a calibration and a candidate to a report."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.parallel import with_one_blas_thread
from pydrift.core.progress import Clock
from pydrift.data import LabelledImages
from pydrift.drift.baselines import measure_baselines, with_gray_known
from pydrift.drift.calibration import GUESSED, Calibration, describe_attack
from pydrift.drift.choice import SAME, VARIED, Choice, choose_null
from pydrift.drift.null import Null
from pydrift.drift.responses import (
    OWN_GRAY,
    QUESTIONS,
    Responses,
    candidate_responses,
    reference_responses,
    select_models,
)
from pydrift.drift.result import Baselines, DriftReport, NullSummary, Provenance
from pydrift.drift.scores import GRAY
from pydrift.drift.settings import Workplace
from pydrift.drift.verdict import Evidence, Verdict, decide
from pydrift.fingerprint import Fingerprint
from pydrift.inversion.gray import GrayData
from pydrift.inversion.resumable import invert_resumable
from pydrift.models.classifier import Classifier, exact_arithmetic, freeze
from pydrift.models.intake import AuditedModel, check_num_classes, refuse_other_answers
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops.environment import describe_environment

SURE_FALL = 1e-10  # a fall of the accuracy with a p up to this is no chance

_decide = with_one_blas_thread(decide)


@dataclass(frozen=True)
class Question:
    """What is asked of a calibration.

    candidate    the model to judge
    alpha        family-wise error level of this audit, in (0, 1)
    release      the number of this audit in a series, or None
    images       labelled images for the accuracy baselines, or None
    use_data     whether the verdict also uses the responses to `images`
    fingerprint  of the base, for one more baseline, or None
    recipe       by which the candidate was trained, SAME for the base's; None: what its file records, if it does
    """

    candidate: AuditedModel
    alpha: float
    release: int | None = None
    images: LabelledImages | None = None
    use_data: bool = False
    fingerprint: Fingerprint | None = None
    recipe: TrainingRecipe | str | None = None

    def check(self, calibration: Calibration) -> None:
        """UsageError or InputRefused where the images do not fit the calibration."""
        if isinstance(self.recipe, str) and self.recipe != SAME:
            raise UsageError(f"recipe must be {SAME!r} or a TrainingRecipe, got {self.recipe!r}")
        images = self.images
        if images is not None and images.input_shape != calibration.input_shape:
            raise InputRefused(
                f"{images.source}: images of shape {images.input_shape}, expected {calibration.input_shape}"
            )
        if self.use_data and images is None:
            raise UsageError("there is nothing to look at: use_data (--use-data) needs data (--data)")
        if self.use_data and images is not None and images.sha256 == calibration.data_sha256:
            raise UsageError(f"{images.source}: the shadows were trained on these images, use_data needs others")


@dataclass(frozen=True)
class _Asked:
    """The candidate's gray data, and all responses: of base and shadows [K + 1, ...], of the candidate [...]."""

    gray: GrayData
    steps_per_second: float | None
    benign: Responses
    candidate: Responses
    recognition: NDArray[np.float64]  # [classes]: the candidate's mean confidence in the consensus


def compare(calibration: Calibration, question: Question, workplace: Workplace) -> DriftReport:
    """Judges one candidate. A pure function of calibration and question, for one kind of device, but for the times."""
    question.check(calibration)
    candidate = freeze(question.candidate.module, calibration.input_shape, workplace.device, "candidate")
    check_num_classes(candidate.num_classes, "the candidate", len(calibration.class_names), "the base", of_data=False)
    known = question.fingerprint
    scorer = None if known is None else known.scorer(calibration.base, device=str(workplace.device))
    choice = choose_null(
        list(calibration.nulls),
        calibration.recipe,
        calibration.draw_size,
        question.candidate.recipe if question.recipe is None else question.recipe,
    )
    null = calibration.nulls[choice.kind]
    modules = (calibration.base.module, *null.shadows)
    models = [freeze(m, calibration.input_shape, workplace.device, "calibrated model") for m in modules]
    clock, calibration_sha256 = Clock(calibration.seconds), calibration.digest()
    with exact_arithmetic(), workplace.progress:
        asked = _ask(calibration, calibration_sha256, null, models, candidate, question, workplace, clock)
    verdict = _judge(calibration, choice, asked, question.alpha)
    with clock("measure baselines"):
        baselines = measure_baselines(
            models[0], candidate, calibration.base.module, question.candidate.module, question.images
        )
        if scorer is not None:
            baselines = with_gray_known(baselines, scorer, calibration.gray, asked.gray)
    verdict = _hold_back(verdict, baselines)
    provenance = Provenance(
        **describe_environment(workplace.device),
        path_base=models[0].path,
        path_candidate=candidate.path,
        restart_steps_per_second=asked.steps_per_second,
        seed=calibration.seed,
        base_sha256=calibration.base.sha256,
        candidate_sha256=question.candidate.sha256,
        data_sha256=calibration.data_sha256,
        calibration_sha256=calibration_sha256,
        base=calibration.base.name,
        candidate=question.candidate.name,
        data=calibration.data,
        settings={
            **calibration.settings,
            "inversion": describe_attack(calibration.attack),
            "restarts": calibration.restarts,
            "probes": {probe: list(variants) for probe, variants in asked.benign.items()},
        },
        seconds=clock.seconds,
    )
    return _report(calibration, question, choice, asked.gray, verdict, baselines, provenance)


def _ask(
    calibration: Calibration,
    calibration_sha256: str,
    null: Null,
    models: list[Classifier],
    candidate: Classifier,
    question: Question,
    workplace: Workplace,
    clock: Clock,
) -> _Asked:
    """Inverts the candidate, and asks it and the calibrated `models`."""
    progress, sha256 = workplace.progress, question.candidate.sha256
    restarts, seed = calibration.restarts, calibration.seed
    plan = {
        "calibration": calibration_sha256,
        "candidate": sha256,
        "attack": describe_attack(calibration.attack),
        "restarts": restarts,
        "seed": seed,
    }
    with workplace.open_run(f"compare-{sha256[:16]}", plan) as run, clock("invert candidate"):
        refuse_other_answers(run, "answers", candidate)
        progress.phase(f"inverting the candidate, {restarts} restarts a class", 1)
        (gray,), rate = invert_resumable(
            calibration.attack, [candidate], restarts, seed, ["gray/candidate"], run, progress.advance
        )
    with clock("measure recognition of candidate"):
        progress.phase("measuring recognition", QUESTIONS + len(models))
        own, recognition = candidate_responses(models, candidate, null.consensus, gray.images, progress.advance)
        benign = null.responses
        if question.use_data and question.images is not None:
            progress.phase("asking about reference data", len(models) + 1)
            asked = reference_responses([*models, candidate], question.images, progress.advance)
            benign, own = benign | select_models(asked, slice(-1)), own | select_models(asked, -1)
    return _Asked(gray, rate, benign, own, recognition)


def _judge(calibration: Calibration, choice: Choice, asked: _Asked, alpha: float) -> Verdict:
    base = select_models(asked.benign, 0)
    del base[GRAY][OWN_GRAY]  # the base is asked about the candidate's too, but was never asked about its own
    null = calibration.nulls[choice.kind]
    evidence = Evidence(
        shadows=select_models(asked.benign, slice(1, None)),
        candidate=asked.candidate,
        confidence=null.confidence,
        class_names=calibration.class_names,
        base=base,
        base_p_value=null.base_p_value,
        recognition=null.compare_recognition(asked.recognition, asked.gray),
        varied=choice.kind == VARIED,
        recipe_known=choice.known,
        recipe_problem=choice.problem,
        exchanges=null.exchanges,
    )
    verdict: Verdict = _decide(evidence, alpha)
    return verdict if choice.note is None else replace(verdict, reasons=(*verdict.reasons, choice.note))


def _hold_back(verdict: Verdict, baselines: Baselines) -> Verdict:
    """A candidate whose accuracy surely fell is never stable, whatever the responses say."""
    before, after, p = baselines.accuracy_base, baselines.accuracy_candidate, baselines.accuracy_p_value
    if verdict.verdict != "stable" or before is None or after is None or p is None or after >= before or p > SURE_FALL:
        return verdict
    fall = f"fell from {before:.1%} to {after:.1%} (p = {p:.2g})"
    reason = f"no class has drifted, but the accuracy on {baselines.data} {fall}"
    return replace(verdict, verdict="inconclusive", reasons=(reason, *verdict.reasons))


def _report(
    calibration: Calibration,
    question: Question,
    choice: Choice,
    gray: GrayData,
    verdict: Verdict,
    baselines: Baselines,
    provenance: Provenance,
) -> DriftReport:
    return DriftReport(
        verdict=verdict.verdict,
        p_value=verdict.p_value,
        alpha=question.alpha,
        release=question.release,
        reasons=verdict.reasons + tuple(GUESSED[name] for name in calibration.settings["guessed"]),
        classes=verdict.classes,
        gray_base=calibration.gray,
        gray_candidate=gray,
        null=NullSummary(
            update_mode=calibration.update_mode,
            recipes=choice.kind,
            shadows=len(calibration.nulls[choice.kind].shadows),
            draw=calibration.draw,
            shadow_accuracy=calibration.nulls[choice.kind].accuracy,
            smallest_score=verdict.smallest_score,
            power=verdict.power,
        ),
        baselines=baselines,
        provenance=provenance,
    )
