"""Words and long sentences of the prose in docs/ and README.md, tables and code left out.

python -m tools.prose
python -m tools.prose --long    # the sentences over 30 words
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONG = 30


def pages() -> list[Path]:
    """README and every page but the generated ones and the changelog."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(p for p in found if p.parent.name != "api" and p.name not in ("changelog.md",))]


def prose(text: str) -> str:
    """Without code, formulas, tables, HTML and comments; links are their text, headings are sentences."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not re.match(r"\s*(\||:::|<|---)", line))
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "x", text)
    text = re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"^\s*([-*]|\d+\.) ", "\n", text, flags=re.MULTILINE)


def sentences(text: str) -> list[str]:
    """Sentences of the prose, by full stops, question marks, colons at a line's end and blank lines."""
    found = []
    for paragraph in re.split(r"\n\s*\n", prose(text)):
        joined = " ".join(paragraph.split())
        found += [s for s in re.split(r"(?<=[.!?])\s+|(?<=:)$", joined) if re.search(r"\w", s)]
    return found


def words(text: str) -> int:
    """Words of a text."""
    return len(re.findall(r"[^\W_][\w'-]*", text))


def main() -> None:
    """Print a line per page, the longest first, and the total."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    args = parser.parse_args()
    total, count, many = 0, 0, 0
    lines = []
    for page in pages():
        found = sentences(page.read_text(encoding="utf-8"))
        long = [s for s in found if words(s) > LONG]
        size = sum(map(words, found))
        total, count, many = total + size, count + len(found), many + len(long)
        lines.append(
            (size, f"{size:6} words {len(long):3} of {len(found):4} sentences long  {page.relative_to(ROOT)}", long)
        )
    for _, line, long in sorted(lines, reverse=True):
        print(line)
        for sentence in long if args.long else []:
            print(f"         {sentence}")
    print(f"{total:6} words, {many} of {count} sentences ({many / count:.1%}) over {LONG} words")


if __name__ == "__main__":
    main()
