"""The documentation: its Python runs, page by page, prints what it says it prints, and every public name has its entry."""

import contextlib
import doctest
import io
import re
import sys
import types
from inspect import signature
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

import fairloss
import fairloss.functional
import fairloss.metrics
import fairloss.policy
from tests.contract import test_compile, test_contract

DOCS = Path(__file__).resolve().parents[2] / "docs"
FRAMEWORKS = {
    "integrations/transformers.md": "docs/test_docs_transformers.py",
    "integrations/verl.md": "integrations/with_verl/test_verl_loading.py",
    "recipes.md": "docs/test_recipes.py",
    "start/segmentation.md": "docs/test_journeys.py",
    "start/vlm.md": "docs/test_journeys.py",
    "start/grpo.md": "docs/test_journeys.py",
}


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if blocks_of(page))


def run_page(page):
    """Run a page's blocks in order in one namespace; what `print(...)  # this` prints has to be this.

    A block that begins with `# path/to/file.py` is that module, which later blocks import.
    """
    mpl.use("Agg")
    torch.manual_seed(0)
    names = {"__name__": "__docs__"}
    with pytest.MonkeyPatch.context() as patch:
        for number, block in enumerate(blocks_of(page), start=1):
            scope = names
            if file := re.match(r"# ([\w/]+)\.py\n", block):
                module = types.ModuleType(file[1].replace("/", "."))
                patch.setitem(sys.modules, module.__name__, module)
                scope = vars(module)
            told = re.findall(r"^(?:print\(.*)?\)  # (.*)$", block, flags=re.MULTILINE)
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block, f"{page.name}, block {number}", "exec"), scope)
            if scope is not names:
                assert doctest.testmod(module).failed == 0, module.__name__
            if told:
                assert output.getvalue().splitlines() == told, f"{page.name}, block {number}"
    return names


# Draws thousands of photographs.
SLOW = {"examples/rendered_fundus.md"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in PAGES
        if name not in {*FRAMEWORKS, "quickstart.md"}
    ],
)
def test_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(DOCS / name)


def test_quick_start_trains_evaluates_and_writes_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page(DOCS / "quickstart.md")
    assert set(names["models"]) == {"plain", "fair"}
    for score in names["models"].values():
        assert score.shape == (142,)
        assert ((score >= 0.5) == names["label"][names["test"]]).mean() > 0.65
    assert names["report"]["age"].gap("accuracy").estimate.high < 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "60 and over" in page
    assert not re.search(r"(src|href)=.https?:", page)


def test_the_loss_of_the_guide_passes_the_contract():
    (case,) = run_page(DOCS / "adding-a-loss.md")["CASES"]
    checks = [
        f for n, f in vars(test_contract).items() if n.startswith("test") and [*signature(f).parameters] == ["case"]
    ]
    assert len(checks) > 10
    for check in checks:
        with contextlib.suppress(pytest.skip.Exception):  # what the case says does not apply
            check(case)
    test_compile.check(case, "aot_eager")


def test_framework_pages_have_a_test_of_their_own():
    for page, test in FRAMEWORKS.items():
        assert page in PAGES
        assert (Path(__file__).parents[1] / test).exists(), test


def documented():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))
    return re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE)


@pytest.mark.parametrize("home", [fairloss, fairloss.functional, fairloss.metrics, fairloss.policy])
def test_every_public_name_is_on_an_api_page(home):
    # A name that two modules export is documented once.
    bare = {path.rsplit(".", 1)[1] for path in documented()}
    public = [name for name in home.__all__ if name != "__version__"]
    assert public
    assert not [name for name in public if name not in bare]


def test_api_pages_name_what_exists_and_name_it_once():
    paths = documented()
    assert len(paths) == len(set(paths)) > 80
    for path in paths:
        module, name = path.rsplit(".", 1)
        if module.startswith("fairloss.integrations."):
            source = (DOCS.parent / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
            assert f'"{name}"' in source.split("__all__")[1].split("]")[0], path
        else:
            __import__(module)
            home = fairloss
            for part in module.split(".")[1:]:
                home = getattr(home, part)
            assert hasattr(home, name), path


def test_every_page_is_in_the_navigation():
    config = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"([\w/-]+\.md)$", config, flags=re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
