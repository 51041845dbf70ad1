"""Build the release and try it as a user gets it: `make release-check`.

Builds sdist and wheel, checks their metadata and contents, installs the wheel alone into a clean environment and into one
for each extra, and tries in each what should work there and what should say which extra is missing.

    python tools/release_check.py --work build/release
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What a base installation says where an extra is missing: the code, and what the one error line has to contain.
MISSING = {
    "report": (
        "from fairloss.report import FairnessReport\n"
        "FairnessReport.from_predictions([0, 1] * 40, [0.2, 0.8] * 40, ['a'] * 40 + ['b'] * 40).to_frame()",
        "fairloss[report]",
    ),
    "transformers": ("from fairloss.integrations.transformers import FairTrainer", "fairloss[transformers]"),
    "trl": ("from fairloss.integrations.trl import FairGRPOTrainer", "fairloss[trl]"),
    "torchmetrics": ("from fairloss.integrations.torchmetrics import MaxAccuracyGap", "fairloss[torchmetrics]"),
    "verl": ("from fairloss.integrations.verl import fair_grpo", "fairloss[verl]"),
    "triton": (
        "import torch, fairloss\nfrom fairloss import ops as kernels\nkernels.set_backend('triton')\n"
        "z = torch.randn(4, 8)\n"
        "fairloss.CrossGroupContrastiveLoss()(z, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))",
        "fairloss[triton]",
    ),
}
# verl pins versions that the others exceed.
CONSTRAINTS = {"verl": "constraints-verl.txt"}
# With the extra the same code runs; Triton's needs a GPU, so there the kernels' module is imported.
PRESENT = {name: code for name, (code, _) in MISSING.items()}
PRESENT["triton"] = "import fairloss.ops.segments_triton, fairloss.ops.advantages_triton"
BASE = {
    "import fairloss": "import sys, fairloss\nassert 'torch' not in sys.modules\nassert fairloss.__version__",
    "every public name": "import fairloss\nfor name in fairloss.__all__: getattr(fairloss, name)",
    "metrics without torch": (
        "import sys\nfrom fairloss import metrics\nfor name in metrics.__all__: getattr(metrics, name)\n"
        "assert metrics.max_accuracy_gap([1, 0, 1, 1], [1, 0, 0, 1], list('FFMM')) == 0.5\n"
        "assert 'torch' not in sys.modules"
    ),
    "the README's swap": re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0],
    "the metrics of a file": (
        "from fairloss.report.cli import main\n"
        "from pathlib import Path\n"
        "Path('p.csv').write_text('y,p,sex\\n' + '1,0.9,F\\n0,0.2,M\\n1,0.4,M\\n0,0.1,F\\n' * 20)\n"
        "raise SystemExit(main(['report', 'p.csv', '--target', 'y', '--score', 'p', '--group', 'sex']))"
    ),
}

IMPORTS = (
    "import fairloss",
    "import fairloss.metrics",
    "from fairloss.metrics import max_accuracy_gap",
    "from fairloss import FairCrossEntropyLoss",
)


def run(*command: str | Path, cwd: Path = ROOT, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is shown where it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if ok and done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done


def check(what: str, holds: bool, detail: str = "") -> None:
    """One line a check; the first that fails ends the run."""
    print(f"{'ok  ' if holds else 'FAIL'} {what}{': ' + detail if detail else ''}", flush=True)
    if not holds:
        raise SystemExit(1)


def check_wheel(wheel: Path) -> None:
    """What is in the wheel, and what is not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    stray = [name for name in names if not name.startswith(("fairloss/", f"{info}/"))]
    check("the wheel holds the package and nothing else", not stray, ", ".join(stray))
    source = {str(p.relative_to(ROOT)) for p in (ROOT / "fairloss").rglob("*.py")}
    check("every module is in it", source <= set(names), f"{len(source)} modules, {wheel.stat().st_size // 1024} KiB")
    check("py.typed and the licence are in it", {"fairloss/py.typed", f"{info}/licenses/LICENSE"} <= set(names))
    tests = [name for name in names if re.search(r"(^|/)(tests?|examples|benchmarks|conftest)", name)]
    check("no tests, no examples, no benchmarks", not tests, ", ".join(tests))
    check("licence, Python and summary are stated", all(metadata[k] for k in ("License-Expression", "Requires-Python")))
    relative = re.findall(r"\]\((?!https:)[^)]*\)", str(metadata.get_payload()))
    check("the description's links are absolute", not relative, ", ".join(relative))
    check("extras", set(MISSING) <= set(metadata.get_all("Provides-Extra", [])))


def environment(folder: Path, wheel: Path, extra: str | None, base: Path | None) -> Path:
    """A Python with the wheel: from nothing, or the base environment with one extra on top."""
    if base is None:
        venv.create(folder, with_pip=True)
    else:
        run("cp", "-al", base, folder)  # hard links: as clean as the base, and made in a second
    python = folder / "bin" / "python"
    target = str(wheel) + (f"[{extra}]" if extra else "")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    if base is None:
        # torch by itself first: resolved through the constraints it is a single pinned file.
        run(*pip, "--constraint", ROOT / "constraints.txt", "torch")
    run(*pip, "--constraint", ROOT / CONSTRAINTS.get(extra or "", "constraints.txt"), target)
    return python


def import_seconds(python: Path, cwd: Path, statement: str) -> float:
    """Least of three: seconds of CPU of an import in a process of its own, which other work does not lengthen."""
    code = f"import time\nstart = time.process_time()\n{statement}\nprint(time.process_time() - start)"
    return min(float(run(python, "-c", code, cwd=cwd).stdout.split()[-1]) for _ in range(3))


def imports(python: Path, cwd: Path, statement: str) -> None:
    """A line with the seconds of an import, and their ratio to those of torch in the same environment."""
    own, torch = import_seconds(python, cwd, statement), import_seconds(python, cwd, "import torch")
    check(f"`{statement}`", True, f"{own:.2f} s of CPU, {own / torch:.2f} times `import torch`")


def main() -> None:
    """All checks, in order."""
    parser = argparse.ArgumentParser(description="Build the release and try it in clean environments.")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "release", help="folder for environments")
    parser.add_argument("--extras", nargs="*", default=sorted(MISSING), help="extras to try (all at run time)")
    parser.add_argument("--quick", action="store_true", help="build and inspect, install nothing")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    dist, empty = args.work / "dist", args.work / "empty"
    empty.mkdir(parents=True)

    run(sys.executable, "-m", "build", "--outdir", dist)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    check("twine check --strict", True, f"{wheel.name}, {sdist.name}")
    check_wheel(wheel)
    with tarfile.open(sdist) as archive:
        inner = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "tests/contract/test_contract.py",
        "mkdocs.yml",
        "constraints.txt",
    }
    check("the sdist holds what its tests need", wanted <= inner, f"{sdist.stat().st_size / 2**20:.1f} MiB")
    run(Path(sys.executable).parent / "cffconvert", "--validate", "--infile", "CITATION.cff")
    check("CITATION.cff is valid", True)
    if args.quick:
        return

    base = args.work / "base"
    python = environment(base, wheel, None, None)
    versions = run(python, "-c", "import sys, torch; print(sys.version.split()[0], torch.__version__)", cwd=empty)
    check("the wheel alone installs", True, "Python {}, torch {}".format(*versions.stdout.split()))
    for what, code in BASE.items():
        done = run(python, "-W", "error", "-c", code, cwd=empty, ok=False)
        check(f"base: {what}", done.returncode == 0, done.stderr.strip()[-300:])
    for name, (code, message) in MISSING.items():
        done = run(python, "-c", code, cwd=empty, ok=False)
        last = (done.stderr.strip().splitlines() or ["no error"])[-1]
        check(f"base, without {name}", done.returncode == 1 and message in last, last)
    for statement in IMPORTS:
        imports(python, empty, statement)
    for name in args.extras:
        python = environment(args.work / name, wheel, name, base)
        done = run(python, "-c", PRESENT[name], cwd=empty, ok=False)
        check(f"fairloss[{name}]", done.returncode == 0, done.stderr.strip()[-300:] if done.returncode else "")
        imports(python, empty, PRESENT[name].splitlines()[0])


if __name__ == "__main__":
    main()
