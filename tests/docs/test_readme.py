"""The README's code runs, and what it says exists does."""

import re
from pathlib import Path

import fairloss

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_swap_runs_by_itself():
    # The other blocks need their script's names: tests/docs/test_journeys.py.
    swap = re.search(r"```python\n(.*?)```", README.split("## The one-line swap")[1], re.DOTALL)[1]
    namespace = {}
    exec(compile(swap, "README.md", "exec"), namespace)
    assert namespace["loss"].requires_grad


def test_files_and_names_exist():
    for path in re.findall(r"`((?:losses|policy|docs)/[\w./-]*)`", README):
        base = ROOT if path.startswith("docs/") else ROOT / "fairloss"
        assert (base / path).exists(), path
    for picture in re.findall(r"\]\((docs/img/[^)]+)\)", README):
        assert (ROOT / picture).exists(), picture
    losses = README.split("## Where each loss comes from")[1]
    for name in re.findall(r"`(\w+(?:Loss|Weighting|Advantage|Heads))`", losses):
        assert name in fairloss.__all__, name


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 15
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [title.lower().replace(" ", "-") for title in titles], link
