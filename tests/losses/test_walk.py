"""The criterion reads in order: at the door, task term, group statistics, gap, out (tools/walk.py)."""

from tools import walk


def test_the_way_of_the_logits_is_short():
    runs = walk.walk()
    files = [file for file, _ in runs]
    assert files[0] == "losses/fair_cross_entropy.py"
    assert files[-1] == "losses/gaps.py"
    assert (len(runs) <= 14, walk.climbs(runs) <= 3, len(set(files)) <= 8) == (True, True, True), runs
