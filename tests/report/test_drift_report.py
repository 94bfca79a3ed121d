"""The report: every promised section with the right numbers, hostile names harmless, one file under 2 MB."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from pydrift.drift.result import Baselines, DriftReport, NullSummary, Provenance
from pydrift.drift.verdict import ClassVerdict
from pydrift.inversion.gray import GrayData
from pydrift.report import figures, render_html, render_terminal, wording

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
    """A report with made-up numbers: drifted classes at drift_scores -20, -21, ..., the others at 0.1 times their index."""
    rng = np.random.default_rng(1)
    found = []
    for i in range(classes):
        moved = i in drifted
        drift_score = -20.0 - drifted.index(i) if moved else 0.1 * i
        found.append(
            ClassVerdict(
                index=i,
                name=names[i % len(names)] if names else str(i),
                verdict="drift" if moved else "stable",
                drift_score=drift_score,
                interval=(drift_score - 1.5, drift_score + 1.5),
                p_value=0.00123 if moved else 0.5 + i / 1000,
                p_adjusted=0.0123 if moved else 1.0,
                reason=None,
                null=tuple(rng.normal(size=shadows).tolist()),
                signals={
                    "plain": drift_score + 1,
                    "mirrored": drift_score + 3,
                    "noisy": drift_score,
                    "own gray data": drift_score + 2,
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
            "retrain", shadows, "1000 of 1500 images without replacement", (0.957, 0.981), smallest_score=3.21
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
            candidate="update.safetensors",
            data="digits (train split)",
            settings={"inversion": {"steps": 120, "tv": 0.02}, "restarts": restarts, "arch": "mlp:1x8x8:64:10"},
            seconds={"train shadows": 12.34, "invert": 20.5},
            command="pydrift audit base.safetensors update.safetensors --data digits --seed 7",
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


def inconclusive() -> DriftReport:
    report = make("inconclusive", ())
    untested = replace(
        report.classes[4],
        verdict="inconclusive",
        drift_score=None,
        interval=None,
        p_value=None,
        p_adjusted=None,
        reason="inversion of the new model failed",
        null=(),
        signals={},
    )
    classes = (*report.classes[:4], untested, *report.classes[5:])
    null = replace(report.null, smallest_score=None)
    return replace(report, classes=classes, null=null, p_value=None, reasons=("2 shadows cannot reach alpha 0.05",))


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
    "inconclusive": inconclusive(),
    "no data": make(baselines=Baselines()),
    "hostile": make(names=HOSTILE, drifted=(0, 1, 2, 3, 4), reasons=HOSTILE),
    "rgb": make(shape=(3, 16, 12)),
    "two channels": make(shape=(2, 5, 5)),
    "many large images": make(classes=60, shape=(3, 64, 64)),
    "larger images": make(classes=3, drifted=(1,), shape=(3, 224, 200)),
    "100 classes": make(classes=100, shape=(3, 32, 32), shadows=256),
    "1000 hostile classes": make(classes=1000, names=HOSTILE, drifted=tuple(range(900)), reasons=HOSTILE * 200),
}


PLACES = ((0.5, None, 0.1), (0.2, -1.0, 0.3), (0.0, 0.4, 12.5))


def test_places_are_drawn_and_named_for_the_class_that_drifted():
    report = make()
    assert "row 3 of 3" not in render_html(report)
    classes = [replace(c, places={"white occlusions": PLACES, HOSTILE[0]: PLACES[:1]}) for c in report.classes[3:4]]
    page = render_html(replace(report, classes=(*report.classes[:3], *classes, *report.classes[4:])))
    assert "white occlusions: +12.50 at the bottom right (row 3 of 3, column 3 of 3)" in Page(page).text
    assert SCRIPT not in page
    tree = ET.fromstring(str(figures.place_map(PLACES)))
    opacity = [float(cell.attrib["fill-opacity"]) for cell in tree.iter() if cell.tag.endswith("rect")]
    assert opacity == pytest.approx([abs(v or 0) / 12.5 for row in PLACES for v in row], abs=0.005)
    assert tree.attrib["aria-label"] == "strongest in row 3 of 3, column 3 of 3"


def test_a_map_without_a_strong_place_is_pale():
    tree = ET.fromstring(str(figures.place_map(((0.4, -1.0),))))
    assert 'fill-opacity="0.25"' in ET.tostring(tree, encoding="unicode")


def test_a_map_of_nothing_frames_nothing():
    assert "observed" not in str(figures.place_map(((None, None), (None, None))))


def test_maps_that_would_swell_the_page_are_left_out():
    c = replace(make().classes[3], places={"white occlusions": ((1.0,) * 500,) * 10, "black occlusions": PLACES})
    page = render_html(replace(make(), classes=(c,)))
    assert "black occlusions: " in page
    assert "white occlusions: " not in page


def test_drifted_classes_are_drawn_against_the_null_before_others_of_smaller_p():
    report = make()
    low = [replace(c, p_adjusted=0.001 if c.verdict == "stable" else c.p_adjusted) for c in report.classes]
    captions = re.findall(r"<figcaption>class ([0-9])", render_html(replace(report, classes=tuple(low))))
    assert len(captions) == 6
    assert captions[0] == "3"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (((3.0,),), "+3.00 at the top left (row 1 of 1, column 1 of 1)"),
        (((0.0, 0.0, 0.0), (0.0, -7.0, 1.0), (0.0, 0.0, 0.0)), "-7.00 at the middle (row 2 of 3, column 2 of 3)"),
        (((None, None),), "nowhere"),
    ],
)
def test_places_in_words(rows, said):
    assert wording.strongest_place(rows) == said


POWER = tuple((size, min(1.0, size / 8)) for size in np.linspace(0, 10, 11).tolist())


def test_power_is_drawn_and_told():
    assert "nine times in ten" not in Page(render_html(make())).text  # reports of earlier versions have none
    report = make(null=replace(make().null, power=POWER))
    page = render_html(report)
    assert "and it takes 7.20 to be found nine times in ten" in Page(page).text
    assert "drifts of null deviations 0.00 found with 0%, 1.00 found with 12%" in page
    ET.fromstring(page)


def test_sizes_between_the_points_of_a_power_curve():
    assert wording.size_found(POWER, 0.5) == pytest.approx(4)
    assert wording.size_found(POWER, 0.9) == pytest.approx(7.2)
    assert wording.size_found(POWER[:3], 0.9) is None
    assert wording.size_found((), 0.9) is None


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("images", [True, False])
def test_page_is_one_small_harmless_well_formed_file(name: str, images: bool) -> None:
    html = render_html(REPORTS[name], images=images)
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
    assert render_html(REPORTS[name], images=images) == html
    assert ("img" in page.tags) == images


def test_hostile_names_appear_only_escaped() -> None:
    html = render_html(REPORTS["hostile"])
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
    html = render_html(hostile(name))
    ET.fromstring(html)
    assert len(html.encode()) < 2_000_000
    assert "script" not in Page(html).tags
    assert all(c.isprintable() or c == "\n" for c in html)


def test_page_of_a_drift_says_everything_promised() -> None:
    report = make(names=("shirt", "dress"), drifted=(3,))
    text = Page(render_html(report)).text
    for promised in (
        'Drift: the new model\'s concept of class 3 ("dress") has changed.',
        "What was compared",
        "base.safetensors",
        "update.safetensors",
        "a1" * 32,
        "b2" * 32,
        "c3" * 32,
        "generic: module Foo is not supported",
        "16 benign shadow models (retrain: trained from scratch, each on 1000 of 1500 images without replacement)",
        "95.7 % to 98.1 %",
        "reference data digits (train split)",
        "-20.00",
        "-21.50 to -18.50",
        "0.00123",
        "0.0123",
        "the first 4 of 6 restarts",
        "own confidence 0.93, 87 steps",
        "Inverted images may reveal training data",
        "Against the null distribution",
        "new model -20",
        "noisy -20.00, plain -19.00, own gray data -18.00",
        "91.23 %",
        "91.01 %",
        "0.412",
        "5.12 %",
        "1.37",
        "on 297 images of digits (test split)",
        "Test accuracy alone would not have shown this: its difference has p = 0.412.",
        "with 16 shadows at alpha 0.05 an drift_score of less than 3.21 null standard deviations passes as stable",
        "What this cannot show",
        "How it was computed",
        "pydrift's own design",
        "pydrift audit base.safetensors update.safetensors --data digits --seed 7",
        "cpu (avx512)",
        "2.13.0+cpu",
        "inversion.steps 120",
        "train shadows 12.3",
        "total 32.8",
    ):
        assert promised in text, promised


def test_page_of_a_stable_and_of_an_inconclusive_audit() -> None:
    text = Page(render_html(stable())).text
    assert "Stable: no class's concept changed more than benign retraining changes it." in text
    assert "Test accuracy differs no more than chance explains (p = 0.412)." in text
    assert "Drift:" not in text

    text = Page(render_html(inconclusive())).text
    assert "Inconclusive: this audit can neither find nor rule out drift." in text
    assert "2 shadows cannot reach alpha 0.05" in text
    assert "inversion of the new model failed" in text
    assert "n/a" in text
    assert "smallest detectable drift_score not determined" in text


def test_page_tells_what_alpha_is_of() -> None:
    share = 0.05 * 6 / (2 * np.pi) ** 2
    assert "expect a false alarm in about 5 of 100 harmless releases" in Page(render_html(stable())).text
    text = Page(render_html(stable(release=2, alpha=share))).text
    assert "This one is number 2 of a series, and alpha 0.0076 is its share" in text
    assert "over all releases, however many, a false alarm has a chance of at most 0.05." in text


def test_page_without_data_images_or_command() -> None:
    report = make(baselines=Baselines(relative_weight_change=0.5))
    assert Page(render_html(report)).text.count("not measured: no data given") == 4
    assert "not measured: the architectures differ" in render_html(make(baselines=Baselines()))

    html = render_html(report, images=False)
    assert "data:image" not in html
    assert "The gray images were left out (--no-images)" in Page(html).text

    empty = replace(gray(10, 6, (1, 8, 8), 0), images=np.zeros((10, 0, 0, 0, 0), np.float32))
    html = render_html(replace(report, gray_base=empty, gray_candidate=empty))
    assert "This report was made without its gray images." in Page(html).text

    report = replace(report, provenance=replace(report.provenance, command=None))
    call = (
        'pydrift.audit(base, candidate, data=data, shadows=16, update_mode="retrain", restarts=6, alpha=0.05, seed=7)'
    )
    assert call in Page(render_html(report)).text


def test_classes_are_sorted_by_adjusted_p_and_long_lists_are_cut_with_a_word() -> None:
    report = make(drifted=(8, 3))
    assert [c.index for c in wording.by_p(report)] == [3, 8, 0, 1, 2, 4, 5, 6, 7, 9]
    untested = inconclusive()
    assert [c.index for c in wording.by_p(untested)][-1] == 4

    tree = ET.fromstring(render_html(report))
    table = next(t for t in tree.iter("table") if t.get("class") == "classes")
    names = [row.find("th").text for row in table.find("tbody")]  # type: ignore[union-attr, arg-type]
    assert names[:3] == ["class 3", "class 8", "class 0"]
    assert len(names) == 10

    text = Page(render_html(REPORTS["100 classes"])).text
    assert re.search(r"Shown: \d+ of 100 classes, drifted ones first", text)
    assert "Shown: 6 of 100 classes, drifted ones first. All values" in text
    assert "Shown: 40 of 50 classes, drifted ones first" in Page(render_html(make(classes=50))).text
    text = Page(render_html(REPORTS["1000 hostile classes"])).text
    assert "Shown: the first 250 of 1000 classes; the rest are in report.json." in text
    assert "and 980 more, in report.json" in text


def test_headlines() -> None:
    assert wording.headline(make(drifted=(8, 3))).endswith("concept of 2 classes has changed: class 3, class 8.")
    many = wording.headline(make(drifted=(0, 1, 2, 3, 4, 5)))
    assert many.endswith("concept of 6 classes has changed: class 5, class 4, class 3, class 2 and 2 more.")
    report = stable()
    finetune = replace(report, null=replace(report.null, update_mode="finetune"))
    assert wording.headline(finetune) == "Stable: no class's concept changed more than benign fine-tuning changes it."


@pytest.mark.parametrize(
    ("drift_score", "text"),
    [(None, "n/a"), (0.0, "0.00"), (-0.001, "0.00"), (-27.126, "-27.13"), (3.0, "+3.00"), (-12345.0, "-1.23e+04")],
)
def test_effects_as_text(drift_score: float | None, text: str) -> None:
    assert wording.score_text(drift_score) == text


def test_only_the_views_that_speak_most_against_the_new_model_are_shown() -> None:
    c = make().classes[3]
    assert wording.strongest_views(c) == [("noisy", -20.0), ("plain", -19.0), ("own gray data", -18.0)]
    assert "mirrored" not in render_html(make())
    assert wording.strongest_views(replace(c, signals={"b": 1.0, "a": 1.0})) == [("a", 1.0), ("b", 1.0)]
    assert wording.strongest_views(replace(c, signals={})) == []
    assert wording.strongest_views(replace(c, signals={HOSTILE[2]: 0.0})) == [(r"a\x1b[31mb\x00\x07\u202ec\nd", 0.0)]


def test_the_same_model_twice_is_said() -> None:
    report = stable()
    said = "Both have the same hash: they are the same model."
    assert said not in Page(render_html(report)).text
    twice = replace(report, provenance=replace(report.provenance, candidate_sha256=report.provenance.base_sha256))
    assert said in Page(render_html(twice)).text


def test_gray_images_are_the_models_pixels() -> None:
    from base64 import b64decode

    from PIL import Image

    def pixels(image: np.ndarray) -> tuple[np.ndarray, figures.Picture]:
        shown = figures.picture(image.astype(np.float32))
        return np.asarray(Image.open(io.BytesIO(b64decode(shown.uri.split(",")[1])))), shown

    rng = np.random.default_rng(0)
    grey, rgb = rng.random((1, 28, 28)), rng.random((3, 32, 16))
    seen, shown = pixels(grey)
    np.testing.assert_array_equal(seen, np.rint(255 * grey.astype(np.float32)[0]))
    assert (shown.width, shown.height) == (56, 56)
    seen, shown = pixels(rgb)
    np.testing.assert_array_equal(seen, np.rint(255 * rgb.astype(np.float32)).transpose(1, 2, 0))
    assert (shown.width, shown.height) == (32, 64)
    seen, shown = pixels(rng.random((3, 224, 224)))
    assert seen.shape == (64, 64, 3)
    assert (shown.width, shown.height) == (64, 64)
    seen, _ = pixels(np.stack([np.zeros((4, 4)), np.ones((4, 4))]))
    assert seen.shape == (4, 4)
    assert (seen == 127).all()


def test_each_class_shows_its_own_images_base_left() -> None:
    report = make(drifted=(3,))
    tree = ET.fromstring(render_html(report))
    table = next(t for t in tree.iter("table") if t.get("class") == "gray")
    first = table.find("tbody")[0]  # type: ignore[index]
    sources = [[img.get("src") for img in cell.iter("img")] for cell in first.findall("td")]
    for column, side in zip(sources, (report.gray_base, report.gray_candidate), strict=True):
        assert column == [figures.picture(image).uri for image in side.images[3, :4]]


def test_figures_scale_bars_and_dots() -> None:
    report = make()
    c = report.classes[3]
    tree = ET.fromstring(figures.score_bar(c, (-40.0, 10.0), smallest=3.0))
    bar = tree.find("rect")
    assert bar is not None
    assert float(bar.get("x", "")) == pytest.approx(figures.BAR_WIDTH * 20 / 50, abs=0.1)
    assert float(bar.get("width", "")) == pytest.approx(figures.BAR_WIDTH * 20 / 50, abs=0.1)
    limit = next(p for p in tree.findall("path") if p.get("class") == "limit")
    assert limit.get("d", "").startswith(f"M{figures.BAR_WIDTH * 37 / 50:.1f} ")

    strip = ET.fromstring(figures.null_strip(replace(c, null=(0.0, 0.0, 0.0, 5.0), interval=None)))
    dots = next(p for p in strip.findall("path") if p.get("class") == "dots").get("d", "")
    assert re.findall(r"v-(\d+)", dots) == ["14", "0"]  # three stacked dots span two steps of 7, one dot none
    assert strip.get("aria-label") == "4 shadows between 0.00 and 5.00, new model at -20.00"


@pytest.mark.parametrize(
    ("span", "about", "ticks"),
    [((-40, 10), 4, [-40, -20, 0]), ((-1.06, 1.06), 4, [-1, 0, 1]), ((-0.003, 0.011), 5, [0, 0.005, 0.01])],
)
def test_ticks_are_round_numbers(span: tuple[float, float], about: int, ticks: list[float]) -> None:
    assert figures._ticks(span, about) == pytest.approx(ticks)


def printed(report: DriftReport, **console: object) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=str(console.pop("encoding", "utf-8")), errors="strict")
    render_terminal(report, Console(file=stream, width=100, **console))  # type: ignore[arg-type]
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_terminal_without_tty_is_plain_text_with_the_numbers() -> None:
    text = printed(make(names=("shirt", "dress")))
    assert text.startswith('Drift: the new model\'s concept of class 3 ("dress") has changed.\n')
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines() if re.match(r" ?\d+ (shirt|dress)", line)]
    assert rows[0] == ["3", "dress", "-20.00", "-21.50", "to", "-18.50", "0.00123", "0.0123", "drift"]
    assert len(rows) == 10
    assert "null: 16 retrain shadows, alpha 0.05, smallest detectable drift_score 3.21" in text
    assert "accuracy, base model: 91.23 %" in text
    assert "Test accuracy alone would not have shown this: its difference has p = 0.412." in text

    text = printed(inconclusive())
    assert "  - 2 shadows cannot reach alpha 0.05\n" in text
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


def test_report_saves_its_page(tmp_path) -> None:  # type: ignore[no-untyped-def]
    report = make()
    report.save(tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") == render_html(report)
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "drift"
    assert render_html(DriftReport.load(tmp_path)) == render_html(report)


def test_a_stable_verdict_does_not_hide_a_fallen_accuracy() -> None:
    report = stable()
    fallen = replace(report.baselines, accuracy_base=0.986, accuracy_candidate=0.888, accuracy_p_value=5.8e-39)
    page = Page(render_html(replace(report, baselines=fallen))).text
    assert "accuracy on digits (test split) fell from 98.60 % to 88.80 %: do not promote on this verdict alone" in page
    risen = replace(fallen, accuracy_base=0.888, accuracy_candidate=0.986)
    assert "do not promote" not in Page(render_html(replace(report, baselines=risen))).text
