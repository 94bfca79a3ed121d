"""The page of a screening: every image's p, hostile names harmless."""

from xml.etree import ElementTree

import numpy as np

from pydrift.fingerprint import FingerprintOrigin, InputScores, Screening
from pydrift.report.fingerprint import render_screening_html


def screening() -> Screening:
    """Five images, two of them flagged; every text is hostile."""
    origin = FingerprintOrigin(
        "neuralfp", {"seed": 0}, "<b>model", None, "0" * 64, ("conv2", "fc1"), (1, 8, 8), 3, "digits", "1" * 64, 100,
        39, ("a <script>reason</script>",), 0, "1", "2",
    )  # fmt: skip
    p = np.array([0.025, 0.05, 0.5, 0.9, 1.0])
    scores = InputScores(np.array([-9.0, -12.0, 1, 2, 3]), p, np.array([0, 0, 0, 2, 2]))
    return Screening(2, 0.4, (0.05, 0.85), 0.02, 0.05, "data\x1b[2J & more", "2" * 64, origin, scores)


def test_the_page_shows_every_image_s_p_and_obeys_no_name():
    result = screening()
    assert result.strangest(9).tolist() == [1, 0]
    page = render_screening_html(result)
    root = ElementTree.fromstring(page.replace("<!DOCTYPE html>", ""))
    bars = [e for e in root.iter() if e.get("class") == "bar"]
    assert [float(bar.get("height")) > 0 for bar in bars] == [k in (0, 1, 10, 18, 19) for k in range(20)]
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert ["0", "3", "66.67 %"] in rows
    assert ["1", "0.05", "\N{MINUS SIGN}12", "0"] in rows
    assert "2 of 5 images are flagged at alpha 0.05: 40.00 % (5.00 to 85.00 %)" in page
    assert "no more than chance explains" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert "\x1b" not in page
