"""The built site: searches find their page first, links and anchors lead somewhere, nothing comes from the network.

The searches are asked of the theme's own worker, in node (search.mjs). FAIRLOSS_SITE names a site that is built already.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.test_docs import DOCS

pytestmark = pytest.mark.slow

SEARCHES = {
    "audit": "start/audit/",
    "predictions.csv": "start/audit/",
    "CSV": "start/audit/",
    "MONAI": "start/segmentation/",
    "LLaVA": "start/vlm/",
    "vision-language": "start/vlm/",
    "LoRA": "start/vlm/",
    "GRPO": "start/grpo/",
    "TRL": "start/grpo/",
    "verl": "integrations/verl/",
    "Trainer": "integrations/transformers/",
    "Lightning": "integrations/transformers/",
    "torchmetrics": "integrations/torchmetrics/",
    "MEDFAIR": "recipes/#medfair",
    "grpo_vlm": "recipes/#trls-grpo_vlm",
    "my gap did not move": "while-training/#my-gap-did-not-move",
    "command line": "command-line/",
    "AUROC": "glossary/",
    "GroupMemory": "methods/small-batches/",
    "BalancedGroupSampler": "methods/samplers/",
    "FairCrossEntropyLoss": "methods/fair-cross-entropy/",
    "cross entropy": "methods/fair-cross-entropy/",
    "equalized odds": "methods/parity/",
    "demographic parity": "methods/parity/",
    "GroupDRO": "methods/group-dro/",
    "FISLoss": "methods/fis/",
    "FEBSLoss": "methods/febs/",
    "FairGRPO": "methods/fair-grpo/",
    "small batches": "methods/small-batches/",
    "AccuracyBudget": "api/training/#fairloss.training.AccuracyBudget",
    "cross_fit": "api/postprocess/#fairloss.postprocess.cross_fit",
    "group_metric": "api/metrics/#fairloss.metrics.group_metric",
    "sample_dice_loss": "api/functional/#fairloss.functional.sample_dice_loss",
    "gap_weight": "groups-and-batches/#how-to-choose-gap_weight",
    "unknown groups": "methods/#unknown-groups",
    "bootstrap": "report/#what-the-numbers-mean",
    "DDP": "distributed/",
    "mixed precision": "distributed/#mixed-precision",
    "torch.compile": "distributed/#torchcompile",
    "Triton": "kernels/",
    "install": "installation/",
    "migrating": "migrating/",
    "changelog": "changelog/",
}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    if built := os.environ.get("FAIRLOSS_SITE"):
        return Path(built)
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml", "ziamath"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'fairloss[docs]'")
    folder = tmp_path_factory.mktemp("site")
    root = DOCS.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_each_search_finds_its_page_first(site):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which runs the theme's search")
    asked = "\n".join(SEARCHES)
    script = Path(__file__).with_name("search.mjs")
    done = subprocess.run([node, script, site], input=asked, capture_output=True, text=True, check=True)
    # A result is a page and its sections; a search that names a section may have either first.
    wrong = {
        query: hits[:3]
        for (query, expected), hits in zip(SEARCHES.items(), json.loads(done.stdout), strict=True)
        if not (
            hits[:1] == [expected] or (expected in hits[:3] and hits[0].partition("#")[0] == expected.partition("#")[0])
        )
    }
    assert not wrong
    assert len(SEARCHES) >= 40


class Page(HTMLParser):
    """Ids, links, and what the page loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values.get("id"), values.get("name")}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in ("script", "img"):
            self.loads.append(values.get("src") or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "icon"):
            self.loads.append(values.get("href") or "")


def test_links_and_anchors_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 60
    broken, loaded = [], []
    for path, page in pages.items():
        loaded += [(path.parent.name, link) for link in page.loads if re.match(r"(https?:)?//", link)]
        for link in page.links:
            if re.match(r"(https?|mailto):", link):
                continue
            target, _, anchor = link.partition("#")
            aim = (path.parent / target).resolve() if target else path
            aim = aim / "index.html" if aim.is_dir() else aim
            if not aim.exists() or (anchor and aim in pages and anchor not in pages[aim].ids):
                broken.append((str(path.relative_to(site)), link))
    assert not loaded
    assert not broken
    assert (site / "sitemap.xml").read_text(encoding="utf-8").count("<loc>https://") > 60


def test_headings_of_the_api_are_import_paths(site):
    text = (site / "api" / "logits" / "index.html").read_text(encoding="utf-8")
    headings = re.findall(r'<h2 id="(fairloss\.[\w.]+)".*?</h2>', text, re.DOTALL)
    assert "fairloss.FairCrossEntropyLoss" in headings
    for name in headings:
        shown = re.sub(r"<.*?>", "", re.search(rf'<h2 id="{re.escape(name)}".*?</h2>', text, re.DOTALL)[0])
        assert name in shown
