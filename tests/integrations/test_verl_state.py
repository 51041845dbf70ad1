"""What FairGRPO in verl does with rows, labels and its configuration; needs no verl."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from fairloss import FairGRPOAdvantage
from fairloss.integrations._after_import import after_import
from fairloss.integrations._verl_state import ROWS, STATE_FILE, FairGRPOState


def advantages(state, rewards, groups, uid, domains=None, **rows):
    """Advantages of one-token rows."""
    columns = {"extra_info": [{} if g is ... else {"demo_group": g} for g in groups], "data_source": domains or []}
    with state.rows({k: v for k, v in columns.items() if v}, **rows):
        return state.advantages(torch.tensor(rewards).unsqueeze(1), torch.ones(len(rewards), 1), uid)[:, 0]


REWARDS, UID = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], ["a", "b", "a", "b", "c", "c"]


def test_rows_equal_the_module_on_a_matrix_of_prompts():
    state = FairGRPOState(groups=["f", "m"], domains=["x", "y"])
    found = advantages(state, REWARDS, ["m", "f", "m", "f", "f", "f"], UID, ["x", "y", "x", "y", "x", "x"])
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    expected = FairGRPOAdvantage(2, num_domains=2)(matrix, torch.tensor([1, 0, 0]), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(found, expected.flatten()[torch.tensor([0, 2, 1, 3, 4, 5])])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_token_rewards_are_summed_and_advantages_masked(dtype):
    state = FairGRPOState(groups=["f"])
    rewards = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]])
    with state.rows({"extra_info": [{"demo_group": "f"}] * 2}):
        found = state.advantages(rewards, mask, np.array(["q", "q"], dtype=object))
    a = 0.5**0.5 / (0.5**0.5 + 1e-6)
    s = a / (a * 2**0.5 + 1e-6)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found, torch.tensor([[s, 0, s], [0, -s, -s]], dtype=found.dtype), rtol=1e-5, atol=1e-6)


def test_equal_rewards_have_advantage_0_wherever_their_tokens_stand():
    # In float32 .1 + .7 + .9 depends on the order of the three.
    rewards = torch.tensor([[0.1, 0.7, 0.9], [0.9, 0.7, 0.1], [0.7, 0.9, 0.1], [0.9, 0.1, 0.7]]).repeat(2, 1)
    assert len(rewards[:, 0].add(rewards[:, 1]).add(rewards[:, 2]).unique()) > 1
    state = FairGRPOState(groups=["f"])
    with state.rows({"extra_info": [{"demo_group": "f"}] * 8}):
        found = state.advantages(rewards, torch.ones(8, 3), ["a", "b"] * 4)
    assert torch.equal(found, torch.zeros(8, 3))


def test_padding_and_earlier_outputs_of_a_rollout_count_for_nothing():
    plain, state = FairGRPOState(groups=["f", "m"]), FairGRPOState(groups=["f", "m"])
    groups = ["m", "f", "m", "f", "f", "f"]
    expected = advantages(plain, REWARDS, groups, UID)
    rows = [*range(6), 0, 3, 5]
    rewards = [*REWARDS, 9.0, 9.0, 0.0]
    sessions = [(f"s{i}", 1) for i in range(6)] + [("s0", 0), ("s3", 0), ("pad", 0)]
    uid = [*[UID[i] for i in rows[:8]], "padding"]
    found = advantages(state, rewards, [groups[i] for i in rows], uid, sessions=sessions, padding=[False] * 8 + [True])
    torch.testing.assert_close(found[:6], expected)
    torch.testing.assert_close(found[6:8], expected[[0, 3]])
    assert found[8] == 0
    assert torch.equal(state.fair.history.totals(), plain.fair.history.totals())
    assert state.metrics == plain.metrics
    assert advantages(state, [1.0, 0.0], ["f", "f"], ["a", "a"], padding=[True, True]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("unknown", [None, "", -1, float("nan"), np.int64(-1), ...])
def test_unknown_groups_count_for_their_domain_alone(unknown):
    state = FairGRPOState(groups=["f", "m"])
    advantages(state, REWARDS, ["m", unknown, "m", unknown, "f", "f"], UID)
    assert state.fair.history.totals()[0, :-1].tolist() == [[1, 1, 1]]
    assert state.metrics["fair/prompts/group_unknown"] == 1
    assert state.metrics["fair/weight/group_unknown"] == pytest.approx(1.0)


def test_rows_without_any_group_need_discovery():
    with pytest.raises(ValueError, match="group_key: .*'demo_group' in extra_info .*got nothing; .*another key"):
        advantages(FairGRPOState(groups=["f"]), REWARDS, [...] * 6, UID)
    rewards = (
        torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.05, 0.95, 40)[:, None]
    ).float()
    expected = FairGRPOAdvantage(1, discover_groups="kmeans")(rewards, torch.full((40,), -1))
    for key in ("extra_info.demo_group", None):
        state = FairGRPOState(discover_groups="kmeans", group_key=key)
        uid = [q for q in range(40) for _ in range(6)]
        found = advantages(state, rewards.flatten().tolist(), [...] * 240, uid)
        torch.testing.assert_close(found, expected.flatten())
        assert any(name.startswith("fair/weight/cluster_") for name in state.metrics)


def test_ids_in_place_of_labels():
    state = FairGRPOState(num_groups=3, num_domains=2, group_key="group", domain_key="extra_info.site")
    columns = {
        "group": torch.tensor([2, 0, 2, 0, -1, -1]),
        "extra_info": [{"site": i // 3} for i in (0, 4, 0, 4, 0, 0)],
    }
    with state.rows(columns):
        found = state.advantages(torch.tensor(REWARDS).unsqueeze(1), torch.ones(6, 1), UID)[:, 0]
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    expected = FairGRPOAdvantage(3, num_domains=2)(matrix, torch.tensor([2, 0, -1]), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(found, expected.flatten()[torch.tensor([0, 2, 1, 3, 4, 5])])
    assert state.metrics["fair/reward/domain_0/group_2"] == 0.5
    with (
        state.rows({**columns, "group": [3] * 6}),
        pytest.raises(ValueError, match=r"group: .*(3.*0 \.\. 2|0 \.\. 2.*3)"),
    ):
        state.advantages(torch.zeros(6, 1), torch.ones(6, 1), UID)


def test_labels_are_told_apart_by_type():
    state = FairGRPOState(groups=["1", 1, True])
    advantages(state, REWARDS, ["1", 1, "1", 1, True, True], UID)
    assert state.fair.history.totals()[0, :-1].tolist() == [[1, 1, 1, 0]]
    with pytest.raises(ValueError, match=r"1\.0.*'1', 1, True|'1', 1, True.*1\.0"):
        advantages(state, REWARDS, [1.0] * 6, UID)
    with pytest.raises(ValueError, match=r"\[1\]"):
        advantages(state, REWARDS, [[1]] * 6, UID)


def test_an_unscorable_row_gets_nothing():
    state = FairGRPOState(groups=["f"])
    found = advantages(state, [1.0, 0.0, float("nan")], ["f"] * 3, ["a"] * 3)
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0, 0.0]) * 0.5**0.5)
    assert state.metrics["fair/reward/f"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"algorithm.fair: .*num_groups, got neither; .*discover_groups=kmeans"),
        ({"groups": ["f"], "num_groups": 1}, r"algorithm.fair.groups: .*num_groups, got both"),
        ({"groups": []}, r"algorithm.fair.groups: .*\[\]"),
        ({"groups": ["f", ""]}, r"algorithm.fair.groups: .*'f', ''\]"),
        ({"groups": ["f", "f"]}, r"algorithm.fair.groups: .*once, got \['f', 'f'\]"),
        ({"num_groups": 0}, "num_groups: .*0"),
        ({"num_groups": True}, "num_groups: .*True"),
        ({"groups": ["f"], "num_domains": "2"}, "num_domains: .*'2'"),
        ({"groups": ["f"], "group_key": None}, "group_key: .*null"),
        (
            {"groups": ["f"], "alpha": 1, "process_group": 2},
            "'alpha', 'process_group'.*groups|groups.*'alpha', 'process_group'",
        ),
        ({"groups": ["f"], "variant": "mine"}, "variant"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        FairGRPOState.from_config({"fair": options})


def test_configurations_that_are_none():
    for algorithm in (None, {}, {"fair": None}):
        with pytest.raises(ValueError, match=r"algorithm.fair: .*; adv_estimator=fair_grpo needs it; add"):
            FairGRPOState.from_config(algorithm)
    with pytest.raises(TypeError, match=r"mapping of options.*\['a'\]"):
        FairGRPOState.from_config({"fair": ["a"]})
    with pytest.raises(TypeError, match="groups: .*list of labels.*'young,old'"):
        FairGRPOState.from_config({"fair": {"groups": "young,old"}})
    with pytest.raises(ValueError, match="norm_adv_by_std_in_grpo: .*False"):
        FairGRPOState.from_config({"fair": {"groups": ["a"]}, "norm_adv_by_std_in_grpo": False})


def test_wrong_rows_are_named_and_not_remembered():
    state = FairGRPOState(groups=["f"])
    with pytest.raises(RuntimeError, match="use it within `with state.rows"):
        state.advantages(torch.zeros(1, 1), torch.ones(1, 1), ["a"])
    with pytest.raises(ValueError, match="rows: .* 2 rows.* of 2, 1 rows"):
        advantages(state, [0.0, 1.0], ["f"], ["a", "a"])
    with (
        state.rows({"data_source": ["x"]}),
        pytest.raises(ValueError, match="group_key: .*'extra_info'.*only 'data_source'"),
    ):
        state.advantages(torch.zeros(1, 1), torch.ones(1, 1), ["a"])
    with state.rows({"extra_info": ["{}"]}), pytest.raises(TypeError, match="extra_info: .*dict"):
        state.advantages(torch.zeros(1, 1), torch.ones(1, 1), ["a"])
    state = FairGRPOState(groups=["f", "m"], reward_shift=0)
    with pytest.raises(ValueError, match="rewards: .*reward_shift='auto'"):
        advantages(state, [-1.0, 0.0], ["f", "f"], ["a", "a"])
    with pytest.raises(ValueError, match="groups: .*of a prompt, got several for uid 'a'"):
        advantages(state, [1.0, 0.0], ["f", "m"], ["a", "a"])
    assert ROWS.get() is None
    assert state.fair.history.totals().sum() == 0


@pytest.mark.parametrize("options", [{}, {"history": "ema"}, {"discover_groups": "kmeans", "variant": "released"}])
def test_saved_and_loaded_it_goes_on_as_before(tmp_path, options):
    state, again = (FairGRPOState(groups=["f", "m"], **options) for _ in range(2))
    groups = ["m", None, "m", None, "f", "f"]
    advantages(state, REWARDS, groups, UID)
    assert state.save(tmp_path / "a" / "b") == tmp_path / "a" / "b" / STATE_FILE
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [STATE_FILE]
    again.load(tmp_path / "a" / "b")
    for _ in range(2):
        assert torch.equal(advantages(again, REWARDS, groups, UID), advantages(state, REWARDS, groups, UID))
    with pytest.raises(FileNotFoundError, match=STATE_FILE):
        again.load(tmp_path)
    with pytest.raises(ValueError, match=r'groups \["m", "f"\], got \["f", "m"\]; .*start anew'):
        FairGRPOState(groups=["m", "f"], **options).load(tmp_path / "a" / "b")
    other = {"history": "batch", "discover_groups": None, "variant": "default"}
    with pytest.raises(ValueError, match="history batch, got (cumulative|ema); .*start anew"):
        FairGRPOState(groups=["f", "m"], **other).load(tmp_path / "a" / "b")


def test_a_module_is_met_as_soon_as_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "met_on_import.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    met = []
    after_import("met_on_import", lambda module: met.append(module.value) or setattr(module, "value", 2))
    assert met == []
    assert importlib.import_module("met_on_import").value == 2
    after_import("met_on_import", lambda module: met.append(module.value))
    assert met == [1, 2]
    monkeypatch.delitem(sys.modules, "met_on_import")
    assert importlib.import_module("met_on_import").value == 1  # once
    after_import("no_such_module_at_all", print)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_at_all")
    sys.modules.pop("met_on_import")


def test_without_verl_the_extra_is_named():
    code = "import sys; sys.modules['verl'] = None\nimport fairloss.integrations.verl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("fairloss.integrations.verl needs verl: pip install 'fairloss[verl]'")
