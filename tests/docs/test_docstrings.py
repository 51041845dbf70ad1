"""Docstrings of losses: every paper of the catalogue with its link and year, and neighbours that exist."""

import inspect
import re

import pytest

import fairloss
import fairloss.policy
from fairloss.losses.catalogue import LOSSES


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_papers_have_link_and_year_and_neighbours_exist(loss):
    text = inspect.getdoc(getattr(fairloss, loss.name))
    reference = re.search(r"^Reference:\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)[1]
    for paper, _ in loss.sources:
        (line,) = [line for line in reference.splitlines() if line.endswith(f": {paper.link}")]
        assert paper.name in line
        assert str(paper.year or "") in line
    neighbours = re.findall(r":\w+:`(\w+)`", text.split("\nSee Also:\n")[1])
    assert len(neighbours) >= 2
    for name in neighbours:
        assert name != loss.name
        assert name in fairloss.__all__ or name in fairloss.policy.__all__
