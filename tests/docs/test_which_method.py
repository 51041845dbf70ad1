"""The page on methods names every public loss and helper, and nothing that does not exist."""

import re
from pathlib import Path

import fairloss
import fairloss.functional
import fairloss.metrics
import fairloss.policy
import fairloss.training

PAGE = (Path(__file__).parents[2] / "docs" / "which-method.md").read_text()


def test_every_public_class_is_on_the_page():
    classes = [name for name in fairloss.__all__ if name[0].isupper()]
    assert len(classes) > 15
    # Gradient reversal is a part of the adversarial loss.
    missing = [name for name in classes if f"`{name}`" not in PAGE and name != "GradientReversal"]
    assert not missing


def test_every_name_on_the_page_exists():
    prefix = r"(?:functional\.|fairloss\.metrics\.|fairloss\.policy\.)?"
    named = set(re.findall(rf"`{prefix}([A-Z]\w+|\w+_advantages|\w+_loss|group_gap)`", PAGE))
    assert len(named) > 15
    homes = [fairloss, fairloss.functional, fairloss.metrics, fairloss.policy, fairloss.training]
    assert not [name for name in named if not any(hasattr(home, name) for home in homes)]
