"""The page of a drift audit: every promised section with the right numbers, hostile names harmless, under 2 MB."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pydrift.drift.result import Baselines, DriftReport
from pydrift.report import drift_wording as wording
from pydrift.report import figures, page
from pydrift.report.drift import render_drift_html, render_drift_terminal
from pydrift.report.page import SYMBOL
from pydrift.report.terminal import STYLE
from tests.report.drift_reports import (
    HOSTILE,
    POWER,
    REPORTS,
    SCRIPT,
    Page,
    gray,
    held_back,
    hostile,
    inconclusive,
    make,
    related,
    stable,
    unmeasured,
)

PLACES = ((0.5, None, 0.1), (0.2, -1.0, 0.3), (0.0, 0.4, 12.5))


def test_places_are_drawn_and_named_for_the_class_that_drifted():
    report = make()
    assert "row 3 of 3" not in render_drift_html(report)
    classes = [replace(c, places={"white occlusions": PLACES, HOSTILE[0]: PLACES[:1]}) for c in report.classes[3:4]]
    html = render_drift_html(replace(report, classes=(*report.classes[:3], *classes, *report.classes[4:])))
    assert "white occlusions: +12.50 at the bottom right (row 3 of 3, column 3 of 3)" in Page(html).text
    assert SCRIPT not in html
    tree = ET.fromstring(str(figures.place_map(PLACES)))
    opacity = [float(cell.attrib["fill-opacity"]) for cell in tree.iter() if cell.tag.endswith("rect")]
    assert opacity == pytest.approx([abs(v or 0) / 12.5 for row in PLACES for v in row], abs=0.005)
    assert tree.attrib["aria-label"] == "strongest in row 3 of 3, column 3 of 3"


def test_maps_that_would_swell_the_page_are_left_out():
    c = replace(make().classes[3], places={"white occlusions": ((1.0,) * 500,) * 10, "black occlusions": PLACES})
    html = render_drift_html(replace(make(), classes=(c,)))
    assert "black occlusions: " in html
    assert "white occlusions: " not in html


def test_drifted_classes_are_drawn_against_the_null_before_others_of_smaller_p():
    report = make()
    low = [replace(c, p_adjusted=0.001 if c.verdict == "stable" else c.p_adjusted) for c in report.classes]
    captions = re.findall(r"<figcaption>class ([0-9])", render_drift_html(replace(report, classes=tuple(low))))
    assert len(captions) == 6
    assert captions[0] == "3"


def test_power_is_drawn_and_told():
    assert "nine times in ten" not in Page(render_drift_html(make())).text
    report = make(null=replace(make().null, power=POWER))
    html = render_drift_html(report)
    assert "and one of 7.20 is found nine times in ten" in Page(html).text
    assert "drifts of null deviations 0.00 found with 0%, 1.00 found with 12%" in html
    ET.fromstring(html)


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("images", [True, False])
def test_page_is_one_small_harmless_well_formed_file(name: str, images: bool) -> None:
    html = render_drift_html(REPORTS[name], images=images)
    assert len(html.encode()) < 2_000_000
    ET.fromstring(html)  # the whole document, its SVG included, is well-formed XML
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base", "form", "a"} & set(page.tags)
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert all(value.startswith("data:image/png;base64,") for key, value in page.attributes if key == "src")
    assert not [key for key, _ in page.attributes if key.startswith("on") or key in ("href", "srcset", "style")]
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert render_drift_html(REPORTS[name], images=images) == html
    assert ("img" in page.tags) == images


def test_hostile_names_appear_only_escaped() -> None:
    html = render_drift_html(REPORTS["hostile"])
    assert SCRIPT not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "n" * 500 not in html
    assert "class 1 (&#34;" + "n" * 57 + "...&#34;)" in html
    assert not set(html) & set("\x1b\x00\x07\u202e\udc80")
    assert r"a\x1b[31mb\x00\x07\u202ec\nd" in html
    assert "{{ 7*7 }}" in html  # a name is data to the template too
    assert "&amp;amp;" in html


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_of_a_report_is_obeyed(name: str) -> None:
    html = render_drift_html(hostile(name))
    ET.fromstring(html)
    assert len(html.encode()) < 2_000_000
    assert "script" not in Page(html).tags
    assert all(c.isprintable() or c == "\n" for c in html)


def test_page_of_a_drift_says_everything_promised() -> None:
    report = make(names=("shirt", "dress"), drifted=(3,))
    text = Page(render_drift_html(report)).text
    for promised in (
        'Drift: the candidate\'s concept of class 3 ("dress") has changed.',
        "What was compared",
        "base.safetensors",
        "candidate.safetensors",
        "a1" * 32,
        "b2" * 32,
        "c3" * 32,
        "generic: module Foo is not supported",
        "The null distribution comes from 16 benign shadow models (varied recipes; retrain: trained from scratch, "
        "each on 1000 of 1500 images without replacement)",
        "95.7 % to 98.1 %",
        "The reference data is digits (train split).",
        "A larger score means more drift.",
        "20.00",
        "0.00123",
        "0.0123",
        "the first 4 of 6 restarts",
        "own confidence 0.93, 87 steps",
        "The adjusted p compares a class with the largest score of each shadow. This keeps the chance of any false "
        "alarm among the 10 classes of this audit at 0.05.",
        "Inverted images may reveal training data",
        "Against the null distribution",
        "candidate 20",
        "noisy 20.00, plain 19.00, own gray data 18.00",
        "91.23 %",
        "91.01 %",
        "0.412",
        "5.12 %",
        "1.37",
        "on 297 images of digits (test split)",
        "Test accuracy alone would not have shown this: its difference has p = 0.412.",
        "With 16 shadows at alpha 0.05, a drift score of less than 3.21 passes as stable.",
        "What this cannot show",
        "How it was computed",
        "pydrift's own design",
        "pydrift audit base.safetensors candidate.safetensors --data digits --seed 7",
        "cpu (avx512)",
        "2.13.0+cpu",
        "inversion.steps 120",
        "train shadows 12.3",
        "total 32.8",
    ):
        assert promised in text, promised


def test_page_of_a_stable_and_of_an_inconclusive_audit() -> None:
    text = Page(render_drift_html(stable())).text
    assert "Stable: no class's concept changed more than benign retraining changes it." in text
    assert "Test accuracy differs no more than chance explains (p = 0.412)." in text
    assert "Drift:" not in text

    text = Page(render_drift_html(inconclusive())).text
    assert "Inconclusive: this audit can neither find nor rule out drift." in text
    assert "all classes: 3 shadows are too few, a null needs 4" in text
    assert "n/a" in text
    assert "smallest detectable drift score not determined" in text


def test_page_tells_what_alpha_is_of() -> None:
    share = 0.05 * 6 / (2 * np.pi) ** 2
    assert "expect a false alarm in about 5 of 100 harmless releases" in Page(render_drift_html(stable())).text
    text = Page(render_drift_html(stable(release=2, alpha=share))).text
    assert "This audit is number 2 of a series, and alpha 0.0076 is its share." in text
    assert "Over all releases, however many, the chance of a false alarm is at most 0.05." in text


def test_page_without_data_images_or_command() -> None:
    report = make(baselines=Baselines(relative_weight_change=0.5))
    assert Page(render_drift_html(report)).text.count("not measured: no data given") == 4
    assert "not measured: the architectures differ" in render_drift_html(make(baselines=Baselines()))

    html = render_drift_html(report, images=False)
    assert "data:image" not in html
    assert "The gray images were left out (--no-images)" in Page(html).text

    empty = replace(gray(10, 6, (1, 8, 8), 0), images=np.zeros((10, 0, 0, 0, 0), np.float32))
    html = render_drift_html(replace(report, gray_base=empty, gray_candidate=empty))
    assert "This report was made without its gray images." in Page(html).text

    report = replace(report, provenance=replace(report.provenance, command=None))
    call = (
        'pydrift.audit(base, candidate, data=data, shadows=16, update_mode="retrain", restarts=6, alpha=0.05, seed=7)'
    )
    assert call in Page(render_drift_html(report)).text


def test_classes_are_sorted_by_adjusted_p_and_long_lists_are_cut_with_a_word() -> None:
    report = make(drifted=(8, 3))
    assert [c.index for c in wording.by_p(report)] == [3, 8, 0, 1, 2, 4, 5, 6, 7, 9]
    untested = unmeasured()
    assert [c.index for c in wording.by_p(untested)][-1] == 4

    tree = ET.fromstring(render_drift_html(report))
    table = next(t for t in tree.iter("table") if t.get("class") == "classes right-from-4")
    names = [row.find("th").text for row in table.find("tbody")]  # type: ignore[union-attr, arg-type]
    assert names[:3] == ["class 3", "class 8", "class 0"]
    assert len(names) == 10

    text = Page(render_drift_html(REPORTS["100 classes"])).text
    assert re.search(r"Shown: \d+ of 100 classes, drifted ones first", text)
    assert "Shown: 6 of 100 classes, drifted ones first. All values" in text
    assert "Shown: 40 of 50 classes, drifted ones first" in Page(render_drift_html(make(classes=50))).text
    text = Page(render_drift_html(REPORTS["1000 hostile classes"])).text
    assert "Shown: the first 250 of 1000 classes; the rest are in report.json." in text
    assert "and 980 more, in report.json" in text


def test_the_same_model_twice_is_said() -> None:
    report = stable()
    said = "Both have the same hash: they are the same model."
    assert said not in Page(render_drift_html(report)).text
    twice = replace(report, provenance=replace(report.provenance, candidate_sha256=report.provenance.base_sha256))
    assert said in Page(render_drift_html(twice)).text


def test_each_class_shows_its_own_images_base_left() -> None:
    report = make(drifted=(3,))
    tree = ET.fromstring(render_drift_html(report))
    table = next(t for t in tree.iter("table") if t.get("class") == "gray")
    first = table.find("tbody")[0]  # type: ignore[index]
    sources = [[img.get("src") for img in cell.iter("img")] for cell in first.findall("td")]
    for column, side in zip(sources, (report.gray_base, report.gray_candidate), strict=True):
        assert column == [figures.picture(image).uri for image in side.images[3, :4]]


def printed(report: DriftReport, **console: object) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=str(console.pop("encoding", "utf-8")), errors="strict")
    render_drift_terminal(report, Console(file=stream, width=100, **console))  # type: ignore[arg-type]
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_terminal_without_tty_is_plain_text_with_the_numbers() -> None:
    text = printed(make(names=("shirt", "dress")))
    assert text.startswith('Drift: the candidate\'s concept of class 3 ("dress") has changed.\n')
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines() if re.match(r" ?\d+ (shirt|dress)", line)]
    assert rows[0] == ["3", "dress", "20.00", "0.00123", "0.0123", "drift"]
    assert len(rows) == 10
    assert (
        "null distribution: 16 shadows (retrain, varied recipes), alpha 0.05, smallest detectable drift score 3.21"
        in text
    )
    assert "accuracy, base model: 91.23 %" in text
    assert "Test accuracy alone would not have shown this: its difference has p = 0.412." in text

    text = printed(inconclusive())
    assert "  - all classes: 3 shadows are too few, a null needs 4\n" in text
    assert "n/a" in text
    assert "and 88 more classes, none with a smaller adjusted p" in printed(REPORTS["100 classes"])
    assert printed(make(baselines=Baselines())).count("not measured: no data given") == 4


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_terminal_obeys_no_name(encoding: str) -> None:
    names = (*HOSTILE, "Größe 服装")
    report = make(names=names, drifted=(2, 3), reasons=names)
    text = printed(report, encoding=encoding)
    assert not set(text) & set("\x1b\x00\x07\u202e")
    assert r"a\x1b[31mb\x00\x07\u202ec\nd" in text
    assert "[bold red]&amp;{{ 7*7 }}" in text
    assert max(map(len, text.splitlines())) < 2100
    colours = printed(report, encoding=encoding, force_terminal=True, color_system="standard")
    assert "\x1b[1;31m" in colours  # the verdict's own colour, and no other red
    assert "\x1b[31mb" not in colours


def test_a_stable_verdict_does_not_hide_a_fallen_accuracy() -> None:
    report = stable()
    fallen = replace(report.baselines, accuracy_base=0.986, accuracy_candidate=0.888, accuracy_p_value=5.8e-39)
    text = Page(render_drift_html(replace(report, baselines=fallen))).text
    assert "accuracy on digits (test split) fell from 98.60 % to 88.80 %: " in text
    assert "do not promote the candidate on this verdict alone" in text
    risen = replace(fallen, accuracy_base=0.888, accuracy_candidate=0.986)
    assert "do not promote" not in Page(render_drift_html(replace(report, baselines=risen))).text


def test_a_related_class_is_told_from_a_drifted_one_by_word_symbol_and_reason() -> None:
    html = render_drift_html(related())
    text = Page(html).text
    assert "Drift: the candidate's concept of 2 classes has changed: class 8, class 3." in text
    row = next(e for e in ET.fromstring(html).iter("tr") if e.get("class") == "related")
    assert "differs less, and perhaps only relative to the classes that drifted (3, 8)" in "".join(row.itertext())
    assert [e.text for e in row.iter("span") if e.get("aria-hidden")] == ["△"]
    assert "".join(row[1].itertext()) == "△ related"
    assert "A related class has a small p only because it is compared with the classes that drifted." in text
    assert "A related class" not in Page(render_drift_html(make())).text
    lines = [line.split() for line in printed(related()).splitlines()]
    assert ["5", "6.50", "0.001", "0.02", "related"] in lines


def test_a_class_that_was_not_measured_is_told_by_word_symbol_and_reason() -> None:
    html = render_drift_html(unmeasured())
    text = Page(html).text
    assert (
        "Stable: no class's concept changed more than benign retraining changes it. 1 class could not be measured."
    ) in text
    row = next(e for e in ET.fromstring(html).iter("tr") if e.get("class") == "unmeasured")
    assert "inversion found no image that the shadows take for it" in "".join(row.itertext())
    assert [e.text for e in row.iter("span") if e.get("aria-hidden")] == ["◇"]
    assert ["".join(cell.itertext()) for cell in row][1] == "◇ unmeasured"
    assert ["".join(cell.itertext()) for cell in row][3:] == ["n/a"] * 3
    assert "The verdict says nothing about an unmeasured class." in text
    assert "unmeasured class" not in Page(render_drift_html(stable())).text
    shown = printed(unmeasured())
    assert ["4", "n/a", "n/a", "n/a", "unmeasured"] in [line.split() for line in shown.splitlines()]
    assert "1 class could not be measured." in shown


def test_a_verdict_that_was_held_back_says_why() -> None:
    for text in (Page(render_drift_html(held_back())).text, printed(held_back())):
        assert "Inconclusive: this audit can neither find nor rule out drift." in text
        assert "the recipe is outside what was calibrated: epochs" in text
    assert "◆" in render_drift_html(held_back())


@pytest.mark.parametrize(
    ("recipes", "words", "limit"),
    [
        ("same", "one recipe", "The shadows were all trained by one recipe"),
        ("varied", "varied recipes", "a drift that is no larger than what a recipe changes can pass"),
    ],
)
def test_the_recipes_of_the_null_are_said(recipes: str, words: str, limit: str) -> None:
    report = make(null=replace(make().null, recipes=recipes))
    text = Page(render_drift_html(report)).text
    assert f"16 benign shadow models ({words}; retrain: " in text
    assert limit in text
    assert f"16 shadows (retrain, {words}), alpha 0.05" in printed(report)


def test_no_page_speaks_of_an_interval_of_a_score_or_of_holm() -> None:
    for report in (make(), stable(), unmeasured()):
        text = Page(render_drift_html(report)).text
        assert not re.search(r"interval|Holm|whisker", text)


def test_a_verdict_has_a_symbol_and_a_colour_of_its_own() -> None:
    verdicts = {"stable", "drift", "related", "inconclusive", "unmeasured"}
    assert set(SYMBOL) == set(STYLE) == verdicts
    assert len(set(SYMBOL.values())) == 5
    # What was not measured is as good as inconclusive: the symbol and the word tell them apart.
    assert len(set(STYLE.values())) == 4
    assert STYLE["unmeasured"] == STYLE["inconclusive"]
    css = (Path(page.__file__).parent / "page.css").read_text()
    assert ".inconclusive h1, .mark-inconclusive, .mark-unmeasured { color: var(--inconclusive); }" in css
    for verdict in verdicts - {"unmeasured", "inconclusive"}:
        assert f".mark-{verdict} {{ color: var(--{verdict}); }}" in css
    for verdict in verdicts - {"unmeasured"}:
        assert css.count(f"--{verdict}: #") == 2  # light and dark
