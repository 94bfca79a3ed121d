"""Made-up reports of drift audits, and what a reader sees of a page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from pydrift.drift.result import Baselines, DriftReport, NullSummary, Provenance
from pydrift.drift.verdict import ClassVerdict
from pydrift.inversion.gray import GrayData

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (SCRIPT, "n" * 10_000, "a\x1b[31mb\x00\x07\u202ec\nd", "[bold red]&amp;{{ 7*7 }}", "\udc80 \"'")


def gray(classes: int, restarts: int, shape: tuple[int, int, int], seed: int) -> GrayData:
    rng = np.random.default_rng(seed)
    images = rng.random((classes, restarts, *shape), dtype=np.float32)
    confidence = np.full((classes, restarts), 0.93, np.float32)
    return GrayData(images, confidence, np.full((classes, restarts), 87, np.int32))


def make(
    verdict: str = "drift",
    drifted: tuple[int, ...] = (3,),
    classes: int = 10,
    names: tuple[str, ...] | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
    restarts: int = 6,
    shadows: int = 16,
    **changes: object,
) -> DriftReport:
    """A report with made-up numbers: drifted classes have the drift scores 20, 21, ..., the others small ones."""
    rng = np.random.default_rng(1)
    found = []
    for i in range(classes):
        moved = i in drifted
        drift_score = 20.0 + drifted.index(i) if moved else -0.1 * i
        found.append(
            ClassVerdict(
                index=i,
                name=names[i % len(names)] if names else str(i),
                verdict="drift" if moved else "stable",
                drift_score=drift_score,
                p_value=0.00123 if moved else 0.5 + i / 1000,
                p_adjusted=0.0123 if moved else 1.0,
                reason=None,
                null=tuple(rng.normal(size=shadows).tolist()),
                signals={
                    "plain": drift_score - 1,
                    "mirrored": drift_score - 3,
                    "noisy": drift_score,
                    "own gray data": drift_score - 2,
                },
            )
        )
    report = DriftReport(
        verdict=verdict,
        p_value=0.0123 if drifted else 1.0,
        alpha=0.05,
        reasons=(),
        classes=tuple(found),
        gray_base=gray(classes, restarts, shape, 2),
        gray_candidate=gray(classes, restarts, shape, 3),
        null=NullSummary(
            "retrain", "varied", shadows, "1000 of 1500 images without replacement", (0.957, 0.981), smallest_score=3.21
        ),
        baselines=Baselines(0.9123, 0.9101, 0.412, 0.0512, 1.37, 297, "digits (test split)"),
        provenance=Provenance(
            pydrift="0.1.0",
            torch="2.13.0+cpu",
            device="cpu",
            native="cpu (avx512)",
            path_base="fused",
            path_candidate="generic: module Foo is not supported",
            seed=7,
            base_sha256="a1" * 32,
            candidate_sha256="b2" * 32,
            data_sha256="c3" * 32,
            calibration_sha256="d4" * 32,
            base="base.safetensors",
            candidate="candidate.safetensors",
            data="digits (train split)",
            settings={"inversion": {"steps": 120, "tv": 0.02}, "restarts": restarts, "arch": "mlp:1x8x8:64:10"},
            seconds={"train shadows": 12.34, "invert": 20.5},
            command="pydrift audit base.safetensors candidate.safetensors --data digits --seed 7",
        ),
    )
    return replace(report, **changes)  # type: ignore[arg-type]


def hostile(name: str) -> DriftReport:
    """A report in which every text that comes from outside is `name`."""
    report = make(names=(name,), reasons=(name,))
    texts = ("native", "device", "path_base", "path_candidate", "base", "candidate", "data", "command", "data_sha256")
    provenance = replace(
        report.provenance, **dict.fromkeys(texts, name), settings={name: {name: name}}, seconds={name: 1.0}
    )
    classes = tuple(replace(c, reason=name, signals={name: 1.0}) for c in report.classes)
    return replace(
        report,
        null=replace(report.null, draw=name),
        provenance=provenance,
        classes=classes,
        baselines=replace(report.baselines, data=name),
    )


def stable(**changes: object) -> DriftReport:
    return make("stable", (), **changes)  # type: ignore[arg-type]


def related() -> DriftReport:
    """Classes 3 and 8 have drifted, and class 5 differs only relative to them."""
    report = make(drifted=(3, 8))
    class_5 = replace(
        report.classes[5],
        verdict="related",
        drift_score=6.5,
        p_value=0.001,
        p_adjusted=0.02,
        reason="differs less, and perhaps only relative to the classes that drifted (3, 8)",
    )
    return replace(report, classes=(*report.classes[:5], class_5, *report.classes[6:]))


def unmeasured() -> DriftReport:
    """Class 4 could not be measured, and the others are stable."""
    report = stable()
    untested = replace(
        report.classes[4],
        verdict="unmeasured",
        drift_score=None,
        p_value=None,
        p_adjusted=None,
        reason="inversion found no image that the shadows take for it",
        null=(),
        signals={},
    )
    reasons = ("class 4: inversion found no image that the shadows take for it",)
    return replace(report, classes=(*report.classes[:4], untested, *report.classes[5:]), reasons=reasons)


def inconclusive() -> DriftReport:
    """Three shadows: no class has a drift score."""
    report, why = make("inconclusive", ()), "3 shadows are too few, a null needs 4"
    untested = [
        replace(
            c, verdict="unmeasured", drift_score=None, p_value=None, p_adjusted=None, reason=why, null=(), signals={}
        )
        for c in report.classes
    ]
    null = replace(report.null, shadows=3, smallest_score=None)
    return replace(report, classes=tuple(untested), null=null, p_value=None, reasons=(f"all classes: {why}",))


def held_back() -> DriftReport:
    """All classes were measured, and nothing is concluded: the recipe lies outside."""
    report = make("inconclusive", ())
    classes = tuple(replace(c, verdict="inconclusive") for c in report.classes)
    return replace(report, classes=classes, reasons=("the recipe is outside what was calibrated: epochs",))


class Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", "".join(self.words)).replace("\N{MINUS SIGN}", "-")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th", "dt", "dd", "p", "li"):
            self.words.append(" ")
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.get_starttag_text() is None or not self.get_starttag_text().startswith("<style"):  # type: ignore[union-attr]
            self.words.append(data)


REPORTS = {
    "drift": make(),
    "stable": stable(),
    "related": related(),
    "inconclusive": inconclusive(),
    "unmeasured": unmeasured(),
    "held back": held_back(),
    "no data": make(baselines=Baselines()),
    "hostile": make(names=HOSTILE, drifted=(0, 1, 2, 3, 4), reasons=HOSTILE),
    "rgb": make(shape=(3, 16, 12)),
    "two channels": make(shape=(2, 5, 5)),
    "many large images": make(classes=60, shape=(3, 64, 64)),
    "larger images": make(classes=3, drifted=(1,), shape=(3, 224, 200)),
    "100 classes": make(classes=100, shape=(3, 32, 32), shadows=256),
    "1000 hostile classes": make(classes=1000, names=HOSTILE, drifted=tuple(range(900)), reasons=HOSTILE * 200),
}

POWER = tuple((size, min(1.0, size / 8)) for size in np.linspace(0, 10, 11).tolist())
