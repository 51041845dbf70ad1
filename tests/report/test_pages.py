"""Pages and plots of a report: self-contained, names that are no HTML and no mathematics, missing extras."""

from __future__ import annotations

import html
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

import fairloss
import fairloss.metrics as fm
import fairloss.report as fr
from tests.report.samples import data


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.outside, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.outside += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_one_self_contained_page(report, tmp_path):
    path = tmp_path / "report.html"
    text = report.to_html(path)
    assert path.read_text(encoding="utf-8") == text
    page = Page()
    page.feed(text)
    assert page.open == []  # well-formed
    assert page.outside == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 6
    assert "A &amp; B &lt;report&gt;" in text
    assert "&lt;unstated&gt;" in text
    assert "<unstated>" not in text
    assert report.to_html() == text  # the same page twice


def test_a_page_prints_whole_and_says_where_it_is_from(report):
    text = report.to_html()
    printed = re.search(r"@media print \{(.*?)\n\}", text, re.DOTALL)[1]
    assert re.search(r"\.scroll, figure \{ overflow: visible; \}", printed)  # nothing is cut off at the right
    assert "white-space: normal" in printed
    assert re.search(r"th:first-child, td:first-child \{ position: sticky; left: 0;", text)
    head = re.findall(r"<thead><tr>(.*?)</tr></thead>", text)
    assert len(head) == text.count("<table>")  # a header that is repeated on every sheet
    assert all(cell.startswith('<th scope="col"') for row in head for cell in re.findall(r"<th.*?>", row))
    today, s = report.settings["date"], report.settings
    for line in (f"on {today} by fairloss {fairloss.__version__}", f"seed {s['seed']}, {s['replicates']} replicates"):
        assert line in html.unescape(text)
        assert line in report.to_markdown()
    assert (s["version"], re.fullmatch(r"\d{4}-\d\d-\d\d", today) is not None) == (fairloss.__version__, True)
    assert report.to_dict()["settings"]["version"] == fairloss.__version__


def test_plots(report):
    pytest.importorskip("matplotlib")
    assert len(report.plot("age").axes) == 12
    figure = report.plot("sex", metrics=["accuracy", "auc"])
    assert [axis.get_title() for axis in figure.axes] == ["accuracy", "AUC"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["F", "M"]
    assert len(fr.plot_gaps(report, attribute="age").axes) == 1
    scores = np.random.default_rng(0).random((6, 4)) + np.array([0, 0, 0, 2])
    text = [t.get_text() for t in fr.plot_critical_difference(fm.friedman_nemenyi(scores, names="abcd")).axes[0].texts]
    assert " d (1.00) " in text
    figure = fr.plot_pareto([0.9, 0.8, 0.7], [0.1, 0.05, 0.2], ["a", "b", "c"])
    dominated = [line for line in figure.axes[0].lines if line.get_label() == "dominated"]
    assert dominated[0].get_xdata().tolist() == [0.2]
    with pytest.raises(ValueError, match=r"names: .*\b1\b"):
        fr.plot_pareto([0.9, 0.8], [0.1, 0.2], ["a"])


def test_pictures_have_text_and_one_scale(report):
    pytest.importorskip("matplotlib")
    text = report.to_html()
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', text)
    assert len(labels) == text.count("<svg") == 6
    assert all(label.split(": ")[0] in ("sex", "age", "sex &amp; age") for label in labels)
    limits = [[axis.get_xlim() for axis in report.plot(name).axes[:10]] for name in ("sex", "age", "sex & age")]
    assert limits[0] == limits[1] == limits[2]
    gaps = [fr.plot_gaps(report, attribute=name).axes[0] for name in ("sex", "age")]
    assert gaps[0].get_xlim() == gaps[1].get_xlim()
    # A mark of its own for each verdict, so that none is told by its color alone.
    shapes = {"shown": "D", "smaller": "s", "not shown": "o", "too few": "o"}
    for name, axis in zip(("sex", "age"), gaps, strict=True):
        drawn = [g for g in report[name].gaps if g.name not in ("demographic_parity_ratio", "equity_scaled_auc")]
        marks = [line.get_marker() for line in axis.lines if line.get_marker() not in ("None", "")]
        assert marks == [shapes[gap.verdict] for gap in drawn]


def test_warnings_are_folded_by_attribute(report):
    text = html.unescape(report.to_html())
    folded = re.search(r'<details class="warnings"><summary>(\d+) warnings?</summary>(.*?)</details>', text, re.DOTALL)
    assert int(folded[1]) == len(report.warnings) == folded[2].count("<li>")
    assert "<p>sex & age</p><ul>" in folded[2]
    assert "<li><unstated> has 4 samples, too few to judge.</li>" in folded[2]  # without the attribute before each


def test_rates_are_lowest_and_highest_qualities_worst_and_best(report):
    text = report.to_markdown()
    row = next(line for line in text.splitlines() if line.startswith("| demographic parity difference"))
    assert re.search(r"lowest \S+, highest", row)
    assert "worst" not in row
    row = next(line for line in text.splitlines() if line.startswith("| accuracy gap"))
    assert re.search(r"worst \S+, best", row)


def test_counts_are_those_of_a_confusion_matrix():
    y, s, g = data(300)
    table = fr.FairnessReport.from_predictions(y, s, g, num_replicates=100).to_markdown()
    for group in range(3):
        tn, fp, fn, tp = confusion_matrix(y[g == group], s[g == group] >= 0.5).ravel()
        shares = f"{tp}/{tp + fn} | {tn}/{fp + tn} | {tp}/{tp + fp} | {tn}/{fn + tn} | {tp + fn}/{tp + fn + fp + tn}"
        assert f"| {group} | {tp} | {fp} | {fn} | {tn} | {shares} |" in table


@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("pdftotext")), reason="chromium and pdftotext print the page here"
)
def test_every_column_is_on_the_printed_page(report, tmp_path):
    """Every cell of every table, and every warning, in the text of the A4 pages that Chromium prints."""
    page, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    report.to_html(page)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'chromium'}"]
    command += ["--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    text = subprocess.run(["pdftotext", "-layout", str(pdf), "-"], check=True, capture_output=True, text=True).stdout
    sizes = subprocess.run(["pdfinfo", str(pdf)], check=True, capture_output=True, text=True).stdout
    assert "841.92 x 595.92 pts (A4)" in sizes or re.search(r"Page size: +84\d\S* x 59\d\S* pts \(A4\)", sizes)
    printed = Counter(re.findall(r"[\w.]+", text))
    source = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<title>.*?</title>", " ", page.read_text(), flags=re.DOTALL)
    words = Counter(re.findall(r"[\w.]+", html.unescape(re.sub(r"<[^>]*>", " ", source))))
    assert {word: n - printed[word] for word, n in words.items() if printed[word] < n} == {}


HOSTILE = ["<img/src=x/onerror=alert(1)> [1]", "<b> [0.1, 0.2]", "$60k^{$", "$30k-$60k", r"a\$b", "x | y"]


@pytest.fixture(scope="module")
def hostile():
    pytest.importorskip("matplotlib")
    y, s, g = data(300, groups=len(HOSTILE))
    values = {"$cost$": s, "<i> [2]": 1 - s}
    groups = {"<u>$in_{$": np.array(HOSTILE)[g]}
    return (
        fr.FairnessReport.from_predictions(y, s, groups, num_replicates=100, title="<s> $a$ $"),
        fr.FairnessReport.from_values(values, groups, num_replicates=100),
    )


def test_names_are_no_html(hostile):
    for report in hostile:
        page = Page()
        text = report.to_html()
        page.feed(text)
        assert not {"img", "b", "u", "s", "i"} & set(page.tags)
        assert page.open == []
        assert "&lt;img/src=x/onerror=alert(1)&gt; [1]" in text


def test_dollars_in_names_are_no_mathematics(hostile):
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    def drawn(figure):
        """What is written in the figure, as text that can be read."""
        from matplotlib import rc_context

        text = io.StringIO()
        with rc_context({"svg.fonttype": "none"}):
            FigureCanvasSVG(figure).print_svg(text)
        # Beside mathematics a comment holds the source.
        return html.unescape(re.sub(r"<!--.*?-->", "", text.getvalue(), flags=re.DOTALL))

    scores = np.random.default_rng(0).random((6, len(HOSTILE)))
    labels = {"performance_label": "$p_{$", "disparity_label": "$1 to $2"}
    names = fm.friedman_nemenyi(scores, names=HOSTILE)
    for figure, expected in [
        (hostile[0].plot(), HOSTILE),
        (hostile[1].plot(), ["$cost$", *HOSTILE]),
        (fr.plot_gaps(hostile[1]), ["$cost$ gap"]),
        (fr.plot_critical_difference(names, title="$a^{$ $b$"), ["$a^{$ $b$", *HOSTILE]),
        (fr.plot_pareto(scores[0], scores[1], HOSTILE, **labels), [*labels.values(), *HOSTILE]),
    ]:
        text = drawn(figure)
        assert [name for name in expected if name not in text] == []


@pytest.mark.parametrize(
    ("hidden", "call"), [("matplotlib", "to_html"), ("matplotlib", "plot"), ("pandas", "to_frame")]
)
def test_a_missing_extra_is_named(report, monkeypatch, hidden, call):
    for module in [m for m in sys.modules if m == hidden or m.startswith(hidden + ".")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ImportError, match=rf"{hidden} is needed here: pip install 'fairloss\[report\]'"):
        getattr(report, call)()
    assert report.to_markdown()  # what needs no extra still works
