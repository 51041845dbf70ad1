"""What a release states about itself agrees: versions, citation, extras, supported Python."""

import re
import sys
from pathlib import Path

import pytest

import fairloss

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def released():
    """The latest version of the changelog and its date, or None while nothing is released."""
    found = re.search(r"^## \[(\d[\w.]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    return found.groups() if found else None


def test_citation_names_the_version_and_the_five_papers():
    version = re.search(r"^version: (\S+)$", CITATION, re.MULTILINE)[1]
    assert fairloss.__version__.removesuffix(".dev0") == version
    titles = re.findall(r'^    title: "(.*)"$', CITATION, re.MULTILINE)
    assert len(titles) == 5
    for word in ("Fair Distillation", "FairGRPO", "FairMed-VLM", "FairMedFM", "Glaucoma"):
        assert any(word in title for title in titles), word


def test_citation_names_losses_that_exist():
    for note in re.findall(r'notes: "the method behind (.*)"', CITATION):
        for name in note.split(", "):
            assert name in fairloss.__all__, name


def test_changelog_and_citation_agree():
    if ".dev" in fairloss.__version__:
        pytest.skip("between releases")
    version, date = released()
    assert version == fairloss.__version__
    assert f'date-released: "{date}"' in CITATION


def test_installation_page_lists_the_extras():
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    section = PYPROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE)) - {"dev", "docs"}  # those of a checkout
    assert extras == set(re.findall(r"`fairloss\[(\w+)\]`", page))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_wheel_takes_the_package_and_nothing_else():
    import tomllib

    build = tomllib.loads(PYPROJECT)["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"] == {"packages": ["fairloss"]}
    assert (ROOT / "fairloss" / "py.typed").exists()
    for path in build["sdist"]["include"]:
        assert (ROOT / path).exists(), path


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_links_of_the_description_lead_to_the_repository():
    import tomllib

    project = tomllib.loads(PYPROJECT)
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    repository = project["project"]["urls"]["Repository"]
    text = "".join((ROOT / fragment["path"]).read_text(encoding="utf-8") for fragment in hook["fragments"])
    elsewhere = set(re.findall(r"\]\((https?:[^)]+)\)", text))
    for substitution in hook["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    for mark, link in re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", text):
        if link in elsewhere:
            continue
        assert link.startswith(f"{repository}/{'raw' if mark else 'blob'}/main/"), link
        assert (ROOT / link.split("/main/")[1].partition("#")[0]).exists(), link
