"""The five cards of the home page: each leads to one script that runs as it stands; the README's lines run in its place."""

import re
import shlex

import pytest

from fairloss.report.cli import main
from tests.docs.test_docs import DOCS, blocks_of

README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
HOME = (DOCS / "index.md").read_text(encoding="utf-8")
# What each script imports that fairloss does not bring, and the extra or package that brings it.
NEEDS = {
    "cnn": {},
    "segmentation": {"monai": "monai"},
    "vlm": {"transformers": "fairloss[transformers]", "peft": "fairloss[transformers]"},
    "grpo": dict.fromkeys(("transformers", "tokenizers", "datasets", "trl"), "fairloss[trl]"),
    "audit": {"pandas": "fairloss[report]"},
}
FAST = ("cnn", "audit")
BROUGHT = {"torch", "numpy", "scipy", "sklearn", "fairloss", "functools"}
marked = [pytest.mark.frameworks, pytest.mark.filterwarnings("default")]
journeys = [name if name in FAST else pytest.param(name, marks=marked) for name in NEEDS]


def install_line(name):
    return re.search(r"^pip install (.*)$", (DOCS / "start" / f"{name}.md").read_text(encoding="utf-8"), re.MULTILINE)[
        1
    ]


@pytest.mark.parametrize("name", NEEDS)
def test_the_card_leads_to_the_page_and_the_line_brings_what_the_script_imports(name):
    assert f"](start/{name}.md)" in HOME
    assert f"](docs/start/{name}.md)" in README
    line = install_line(name)
    assert f"`pip install {line}`" in HOME
    assert f"`pip install {line}`" in README
    (script,) = blocks_of(DOCS / "start" / f"{name}.md")
    imported = set(re.findall(r"^(?:from|import) (\w+)", script, re.MULTILINE)) - BROUGHT
    assert imported == set(NEEDS[name])
    assert set(NEEDS[name].values()) <= set(shlex.split(line))


@pytest.mark.parametrize("name", journeys)
def test_the_script_runs_and_so_do_the_lines_of_the_readme(name, tmp_path, monkeypatch, capsys):
    for package in NEEDS[name]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (script,) = blocks_of(DOCS / "start" / f"{name}.md")
    names = {"__name__": "__main__"}
    exec(compile(script, f"start/{name}.md", "exec"), names)
    assert capsys.readouterr().out.strip()
    section = README.split(f"](docs/start/{name}.md)")[1]
    lines = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert len(lines.split("\n")) <= 7  # five, an empty one, the end
    for value in ("loss", "trainer", "report"):
        names.pop(value, None)
    exec(compile(lines, f"README.md, {name}", "exec"), names)
    assert {"loss", "trainer", "report"} & names.keys()
    if "loss" in names:
        names["loss"].backward()


def test_the_command_of_the_audit_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "start" / "audit.md").read_text(encoding="utf-8")
    (script,) = blocks_of(DOCS / "start" / "audit.md")
    exec(compile(script, "start/audit.md", "exec"), {})
    (tmp_path / "report.html").unlink()
    command = re.search(r"^fairloss (report .*?)\n```", text, re.MULTILINE | re.DOTALL)[1].replace("\\\n", " ")
    assert main([*shlex.split(command), "--replicates", "100"]) == 0
    assert "accuracy" in capsys.readouterr().out.lower()
    assert "65+" in (tmp_path / "report.html").read_text(encoding="utf-8")
