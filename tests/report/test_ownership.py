"""The page of an ownership audit: every promised section with the right numbers, hostile names harmless."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from pydrift.ownership import Evidence, OwnershipReport, SuspectResult
from pydrift.ownership.evidence import ReferenceScale, SamplePoint
from pydrift.ownership.reference_profile import ReferenceProfile
from pydrift.ownership.result import Null, OwnershipProvenance
from pydrift.report import figures
from pydrift.report.ownership import by_p, headline, meaning, render_ownership_html, render_ownership_terminal

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (SCRIPT, "n" * 10_000, "a\x1b[31mb\x00\x07\u202ec\nd", "[bold red]&amp;{{ 7*7 }}", "\udc80 \"'")
BENIGN = tuple(-0.2 + 0.01 * k for k in range(40))  # the three most alike at 0.17, 0.18 and 0.19
FOUND = tuple(value / 1.25 for value in BENIGN)


def suspect(name: str, effect: float, verdict: str, p: float, reasons: tuple[str, ...] = ()) -> SuspectResult:
    return SuspectResult(
        name=name,
        sha256="a1" * 32,
        verdict=verdict,
        p=p,
        evidence=(
            Evidence("knowledge", effect, effect - 0.05, effect + 0.05, p, 10 * effect),
            Evidence("agreement", effect / 2, effect / 2 - 0.05, effect / 2 + 0.05, 0.234, 5 * effect),
            Evidence("membership", 0.25, -0.11, 0.61, 0.345, 1.2),
            Evidence("confidence: perceptron", 0.4321, 0.11, 0.75, 0.0731, 2.1, p_welch=3.21e-5, p_harmonic=0.00456),
            Evidence("confidence: logistic regression", -1.5, -2.5, -0.5, 0.8, -0.9, p_welch=0.91, p_harmonic=0.66),
        ),
        by_samples=(SamplePoint(2, p, 0.3, 0.6), SamplePoint(10, p, (p + 0.3) / 2, 0.4), SamplePoint(20, p, p, p)),
        queries=123456,
        accuracy_private=1.0,
        accuracy_public=0.875,
        reasons=reasons,
    )


THIEF = suspect("thief.safetensors", 0.61, "stolen", 1 / 41)
INDEPENDENT = suspect("benign.safetensors", -0.055, "independent", 27 / 41)
UNCLEAR = suspect("unclear.safetensors", 0.155, "inconclusive", 5 / 41, ("p lies between: reveal more samples",))


def make(*suspects: SuspectResult, **changes: object) -> OwnershipReport:
    report = OwnershipReport(
        suspects=suspects,
        victim=suspect("victim", 1.0, "stolen", 1 / 41),
        null=Null(8, 40, "300 of 541 images without replacement", (0.913, None, 0.987), FOUND, BENIGN),
        alpha=0.05,
        samples=20,
        embedding="MinGD (white box)",
        private="the members of digits (train)",
        public="the others of digits (train)",
        reasons=("each benign model saw 300 images and the victim 400",),
        provenance=OwnershipProvenance(
            pydrift="0.1.0",
            torch="2.13.0+cpu",
            device="cpu",
            native="cpu (avx512)",
            seed=7,
            victim="mine.safetensors",
            victim_sha256="b2" * 32,
            private_sha256="c3" * 32,
            public_sha256="d4" * 32,
            settings={"embedding": {"max_steps": 500}, "fit_on": 40},
            paths={"thief.safetensors": "native AVX-512", "benign.safetensors": "generic: module Foo is not supported"},
            seconds={"train benign models": 12.34, "embed": 1.5},
            command="pydrift ownership thief.safetensors --victim mine.safetensors",
        ),
    )
    return replace(report, **changes)  # type: ignore[arg-type]


ALL = make(INDEPENDENT, THIEF, UNCLEAR)


def hostile(name: str) -> OwnershipReport:
    """A report in which every text that comes from outside is `name`."""
    texts = ("native", "device", "victim", "victim_sha256", "private_sha256", "public_sha256", "command")
    provenance = replace(
        ALL.provenance,
        **dict.fromkeys(texts, name),
        settings={name: {name: name}},
        seconds={name: 1.0},
        paths={name: name},
    )
    named = tuple(replace(s, name=name, sha256=name, reasons=(name,)) for s in ALL.suspects)
    return replace(
        ALL,
        suspects=named,
        provenance=provenance,
        null=replace(ALL.null, draw=name),
        reasons=(name,),
        **dict.fromkeys(("private", "public", "embedding"), name),
    )


def text_of(html: str) -> str:
    """What a reader sees, white space made single."""
    body = ET.fromstring(html).find("body")
    assert body is not None
    return re.sub(r"\s+", " ", " ".join(body.itertext())).replace("\N{MINUS SIGN}", "-")


def rows(html: str) -> list[list[str]]:
    """The cells of all table rows."""
    return [
        [re.sub(r"\s+", " ", " ".join(cell.itertext())).replace("\N{MINUS SIGN}", "-").strip() for cell in row]
        for row in ET.fromstring(html).iter("tr")
    ]


MANY = make(*(suspect(f"{HOSTILE[n % 5]} {n}", 0.3 - n / 1000, "stolen", 1 / 41) for n in range(400)))


@pytest.mark.parametrize("report", [ALL, make(INDEPENDENT), MANY, *map(hostile, HOSTILE)])
def test_page_is_one_small_harmless_well_formed_file(report: OwnershipReport) -> None:
    html = render_ownership_html(report)
    assert len(html.encode()) < 2_000_000
    elements = list(ET.fromstring(html).iter())
    assert not {"script", "link", "iframe", "object", "base", "form", "a", "img"} & {e.tag for e in elements}
    attributes = [(key, value) for e in elements for key, value in e.items()]
    assert not [key for key, _ in attributes if key.startswith("on") or key in ("href", "src", "srcset")]
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in attributes
    assert not re.search(r"https?://|url\(|@import", html)
    assert all(c.isprintable() or c == "\n" for c in html)
    assert render_ownership_html(report) == html


def test_hostile_names_appear_only_escaped() -> None:
    for name, shown in zip(
        HOSTILE,
        (
            "&lt;script&gt;",
            "n" * 57 + "...",
            r"a\x1b[31mb\x00\x07\u202ec\nd",
            "[bold red]&amp;amp;{{ 7*7 }}",
            r"\udc80 ",
        ),
        strict=True,
    ):
        html = render_ownership_html(hostile(name))
        assert html.count(shown) >= 8  # as suspect, in the title, in the figures' captions and so on
        assert SCRIPT not in html


def test_every_suspect_has_its_verdict_and_its_numbers() -> None:
    html = render_ownership_html(ALL)
    found = rows(html)
    measured = ["+0.25 p = 0.345", "100 %", "87.5 %", "123,456"]
    for name, verdict, knowledge, p, agreement in (
        ("1 thief.safetensors", "▲ stolen", "+0.61 +0.56 to +0.66", "0.0244", "+0.30"),
        ("2 unclear.safetensors", "◆ inconclusive", "+0.15 +0.10 to +0.21", "0.122", "+0.08"),
        ("3 benign.safetensors", "● independent", "-0.06 -0.11 to -0.00", "0.659", "-0.03"),
        ("the victim itself the most that can be seen", "the ceiling", "+1.00 +0.95 to +1.05", "0.0244", "+0.50"),
    ):
        assert [name, verdict, knowledge, p, f"{agreement} p = 0.234", *measured] in found
    for name in ("1 thief.safetensors", "2 unclear.safetensors", "3 benign.safetensors", "the victim itself"):
        at = found.index([name, "perceptron", "0.432 0.11 to 0.75", "0.0731", "3.21e-05", "0.00456"])
        assert found[at + 1] == ["logistic regression", "-1.5 -2.5 to -0.5", "0.8", "0.91", "0.66"]
    assert ["suspect 1", "thief.safetensors", "a1" * 32, "native AVX-512"] in found
    assert ["suspect 2", "unclear.safetensors", "a1" * 32, ""] in found
    assert ["suspect 3", "benign.safetensors", "a1" * 32, "generic: module Foo is not supported"] in found


def test_page_says_everything_promised() -> None:
    text = text_of(render_ownership_html(ALL))
    for promised in (
        "▲ Stolen: thief.safetensors comes from the private images, or from the victim.",
        "p is a rank among 40 benign models that were trained without the private images.",
        "Stolen: p is at most 0.05.",
        "Therefore they are spread from their mean, by a factor of 1.25.",
        "each benign model saw 300 images and the victim 400",
        "none of 40 benign models shows as much knowledge of the private images, p = (0 + 1) / (40 + 1) = 0.0244",
        "4 of 40 benign models show as much knowledge of the private images, p = (4 + 1) / (40 + 1) = 0.122",
        "; p lies between: reveal more samples",
        "MinGD (white box)",
        "historical, no p-value",
        "Each was trained on 300 of 541 images without replacement.",
        "Their accuracy on images that they were not trained on is 91.3 % to 98.7 %.",
        "adversarial training on the private images is a known false negative",
        "Somebody may have them for another reason",
        "How benign models of other data behave",
        "pydrift ownership thief.safetensors --victim mine.safetensors",
        "embedding.max_steps 500",
        "train benign models 12.3",
        "b2" * 32,
        "c3" * 32,
        "d4" * 32,
    ):
        assert promised in text, promised
    python = replace(ALL, provenance=replace(ALL.provenance, command=None))
    assert "by pydrift.ownership_audit with the settings below" in text_of(render_ownership_html(python))


def test_the_banner_is_of_the_gravest_verdict() -> None:
    for report, tone, words in (
        (ALL, "drift", "Stolen: thief.safetensors comes from the private images, or from the victim."),
        (
            make(THIEF, replace(THIEF, name="b")),
            "drift",
            "Stolen: thief.safetensors, b come from the private images, or from the victim.",
        ),
        (
            make(UNCLEAR, INDEPENDENT),
            "inconclusive",
            "Inconclusive: this audit cannot decide whether unclear.safetensors comes from the private images.",
        ),
        (
            make(INDEPENDENT),
            "stable",
            "Independent: this audit found no sign that benign.safetensors comes from the private images.",
        ),
        (
            make(INDEPENDENT, INDEPENDENT),
            "stable",
            "Independent: this audit found no sign that any suspect comes from the private images.",
        ),
    ):
        assert headline(report) == words
        banner = ET.fromstring(render_ownership_html(report)).find(".//section[@aria-label='verdict']")
        assert banner is not None
        assert banner.get("class") == f"banner {tone}"
    five = make(*(replace(THIEF, name=str(n)) for n in range(5)))
    assert headline(five) == "Stolen: 0, 1, 2, 3 and 1 more come from the private images, or from the victim."


def test_suspects_stand_by_their_p_and_then_by_their_knowledge() -> None:
    weaker = suspect("weaker", 0.4, "stolen", 1 / 41)
    assert by_p(make(INDEPENDENT, weaker, UNCLEAR, THIEF)) == [THIEF, weaker, UNCLEAR, INDEPENDENT]


def test_p_in_words_counts_the_benign_models() -> None:
    for rank, begins in (
        (1, "none of 40 benign models shows as much knowledge"),
        (2, "1 of 40 benign models shows as much knowledge"),
        (3, "2 of 40 benign models show as much"),
        (41, "40 of 40 benign models show as much"),
    ):
        assert meaning(ALL, suspect("x", 0.1, "stolen", rank / 41)).startswith(begins)


def test_what_does_not_fit_is_counted() -> None:
    html = render_ownership_html(MANY)
    text = text_of(html)
    assert "Shown: the first 250 of 400 suspects; the rest are in ownership.json." in text
    assert "and the first 20 suspects are drawn" in text
    assert html.count("<figure>") == 1 + 20 + 1  # the benign models, the curves of 20 and that of the victim
    assert "suspects are drawn" not in text_of(render_ownership_html(ALL))


def test_figure_of_benign_models() -> None:
    lines = [("1", "drift", THIEF.knowledge, 0.3), ("victim", "", ALL.victim.knowledge, None)]
    svg = ET.fromstring(figures.knowledge_figure(BENIGN, lines))
    x = figures._scale(figures.span([*BENIGN, 0.56, 0.66, 0.95, 1.05]), figures.STRIP_WIDTH)
    paths = {
        kind: [p.get("d", "") for p in svg.iter("path") if p.get("class") == kind] for kind in ("limit", "observed")
    }
    assert [d.split()[0] for d in paths["observed"]] == [f"M{x(0.61):.1f}", f"M{x(1):.1f}"]
    assert paths["limit"] == [f"M{x(0.3):.1f} 0v{figures.FOREST_ROW}"]  # of the one suspect that has a limit
    dots = next(p.get("d", "") for p in svg.iter("path") if p.get("class") == "dots")
    assert dots.count("M") > 10
    assert [t.text for t in svg.iter("text") if t.get("class") == "rate"] == ["1", "victim", "benign models"]
    assert svg.get("aria-label") == (
        "knowledge of the private images: 40 benign models between -0.20 and 0.19, 1 0.61, victim 1.00"
    )
    further = [("1", "drift", THIEF.knowledge, 7.0)]
    svg = ET.fromstring(figures.knowledge_figure(BENIGN, further))
    (limit,) = (p.get("d", "") for p in svg.iter("path") if p.get("class") == "limit")
    assert 0 < float(limit.split()[0][1:]) < figures.STRIP_WIDTH  # what is far away is still in the picture


def test_the_figure_and_the_words_are_the_verdict_s() -> None:
    """Random suspects of random independents: the mark is right of the dashes just where p is at most alpha, and the
    words count the models that p counts. (A line at the rank of the drawn dots disagrees with the verdict of some.)"""
    random, disagreeing, stolen = np.random.default_rng(0), 0, 0
    for _ in range(150):
        null = random.normal(size=(40, 2)) * [0.1, 2.0]
        reference_scale = ReferenceScale(20, *[ReferenceProfile(*np.zeros((3, 1, 1)))] * 2, np.zeros((1, 1)), null)
        signs = null.mean(axis=0) + random.normal(size=2) * [0.3, 6.0]
        p, effect = reference_scale.p_value(signs), float(reference_scale.knowledge(signs))
        needed = reference_scale.needed(signs, 0.05)
        one = replace(suspect("one", effect, "", p), needed=needed)
        drawn = tuple(map(float, reference_scale.knowledge(reference_scale.widened_null())))
        report = make(one, null=replace(ALL.null, knowledge_widened=drawn))
        svg = ET.fromstring(figures.knowledge_figure(drawn, [("1", "", one.knowledge, needed)]))
        marks = {path.get("class"): path.get("d", "") for path in svg.iter("path")}
        at = {kind: float(marks[kind].split()[0][1:]) for kind in ("observed", "limit") if kind in marks}
        assert (p <= 0.05) == (needed is not None and needed <= effect)
        assert (p <= 0.05) == ("limit" in at and at["limit"] <= at["observed"])
        everybody = np.concatenate([reference_scale.widened_null(), signs[None]])
        scale = everybody.mean(axis=0), everybody.std(axis=0, ddof=1)
        *benign, own = np.sqrt((np.maximum((everybody - scale[0]) / scale[1], 0) ** 2).sum(axis=1))
        count = sum(value >= own for value in benign)
        assert meaning(report, one).startswith(f"{count or 'none'} of 40 benign models ")
        disagreeing += (p <= 0.05) != (effect > sorted(drawn)[-2])
        stolen += p <= 0.05
    assert 20 < stolen < 130
    assert disagreeing


def test_figure_of_p_against_samples() -> None:
    points = (SamplePoint(2, 0.1, 0.5, 1.0), SamplePoint(10, 0.01, 0.1, 0.2), SamplePoint(20, 0.01, 0.01, 0.01))
    svg = ET.fromstring(figures.p_curve(points, least=0.01, alpha=0.1))
    found = {p.get("class"): p.get("d", "") for p in svg.iter("path")}

    def corners(d: str) -> list[tuple[float, float]]:
        return [tuple(map(float, corner.split())) for corner in d.strip("MZ").split("L")]  # type: ignore[misc]

    left, width = figures.CURVE_LEFT, figures.CURVE_WIDTH
    curve = corners(found["curve"])
    assert [x for x, _ in curve] == pytest.approx([left + width / 10, left + width / 2, left + width], abs=0.1)
    ticks = {t.text: float(t.get("y", "")) - 4 for t in svg.iter("text") if t.get("class") == "rate"}
    assert list(ticks) == ["1", "0.1", "0.01"]
    assert ticks["0.1"] - ticks["1"] == pytest.approx(ticks["0.01"] - ticks["0.1"], abs=0.2)  # logarithmic
    assert [y for _, y in curve[1:]] == pytest.approx([ticks["0.1"], ticks["0.01"]], abs=0.1)
    assert found["limit"].startswith(f"M{left} {ticks['0.1']:.1f}H")
    band = corners(found["interval"])
    assert len(band) == 6
    assert [band[0][1], band[5][1]] == pytest.approx([ticks["0.1"], ticks["1"]], abs=0.1)
    assert svg.get("aria-label") == "median p 0.5 from 2 samples, 0.01 from 20"


def printed(report: OwnershipReport, **console: object) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=str(console.pop("encoding", "utf-8")), errors="strict")
    render_ownership_terminal(report, Console(file=stream, width=120, **console))  # type: ignore[arg-type]
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_terminal_without_tty_is_plain_text_with_the_numbers() -> None:
    text = printed(ALL)
    assert text.startswith(
        "Stolen: thief.safetensors comes from the private images, or from the victim.\n  - each benign model saw 300"
    )
    assert "\x1b" not in text
    assert "…" not in text  # nothing is cut off at 120 columns
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "thief.safetensors +0.61 +0.56 to +0.66 0.0244 0.234 0.345 123,456 stolen" in lines
    assert "unclear.safetensors +0.15 +0.10 to +0.21 0.122 0.234 0.345 123,456 inconclusive" in lines
    assert "the victim itself +1.00 +0.95 to +1.05 0.0244 0.234 0.345 123,456 the ceiling" in lines
    assert (
        "thief.safetensors: none of 40 benign models shows as much knowledge of the private images, p = (0 + 1)" in text
    )
    assert "unclear.safetensors: p lies between: reveal more samples\n" in text
    assert "40 benign models, 8 more as references; alpha 0.05" in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("name", HOSTILE)
def test_terminal_obeys_no_name(name: str, encoding: str) -> None:
    text = printed(hostile(name), encoding=encoding)
    assert not set(text) & set("\x1b\x00\x07\u202e")
    assert ("[bold red]&amp;{{ 7*7 }}" in text) == (name == HOSTILE[3])
    colours = printed(hostile(name), encoding=encoding, force_terminal=True, color_system="standard")
    assert "\x1b[1;31m" in colours  # the verdict's own colour
    assert "\x1b[31mb" not in colours
