"""FairGRPOTrainer computes advantages from rewards and labels as they are, not from TRL's advantages."""

import pytest
import torch

from fairloss import FairGRPOAdvantage
from fairloss.policy import GroupDROAdvantage
from tests.integrations.test_trl import dataset, record, reward, trainer

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("default")]

OPTIONS = [
    {},
    {"scale_rewards": "batch"},
    {"scale_rewards": "none"},
    {"multi_objective_aggregation": "normalize_then_sum"},
]
EIGHT = {"per_device_train_batch_size": 8, "num_generations": 8, "gradient_accumulation_steps": 3, "max_steps": 1}
PLAIN = {"size_power": 0, "reward_power": 0}


def advantages_of(instance, reward_of_row):
    """TRL's advantages, ours and the rewards, of the whole run."""
    instance.reward_funcs = [lambda completions, row, **_: reward_of_row(completions, row)]
    seen = record(instance)
    instance.train()
    return torch.cat(seen.plain), torch.cat(seen.fair), torch.cat(seen.rewards)[:, 0]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("fair", [FairGRPOAdvantage, GroupDROAdvantage])
def test_equal_rewards_of_a_prompt_have_advantage_0(tmp_path, options, fair):
    instance = trainer(tmp_path, fair(2), columns={}, **EIGHT, **options)
    plain, found, _ = advantages_of(instance, lambda _, row: [[0.1, 0.7, 0.9][i % 3] for i in row])
    if not options:
        assert plain.abs().max() > 1e-5  # TRL's rounding noise, which must not be taken for a signal
    assert torch.equal(found, torch.zeros_like(found))
    assert list(instance._logs["advantages"]) == found.tolist()


@pytest.mark.parametrize("options", OPTIONS)
def test_equal_rewards_have_advantage_0_beside_prompts_whose_rewards_differ(tmp_path, options):
    def reward_of_row(completions, row):
        return [0.7 if i % 2 else float(place % 3 == 0) for place, i in enumerate(row)]

    _, found, rewards = advantages_of(
        trainer(tmp_path, FairGRPOAdvantage(2), columns={}, **EIGHT, **options), reward_of_row
    )
    constant = rewards.view(-1, 8).amax(1) == rewards.view(-1, 8).amin(1)
    assert 0 < constant.sum() < len(constant)
    assert (found.view(-1, 8)[constant] == 0).all()
    assert (found.view(-1, 8)[~constant] != 0).all()


def test_unscaled_rewards_stay_unscaled(tmp_path):
    instance = trainer(tmp_path, FairGRPOAdvantage(2, **PLAIN), columns={}, scale_rewards="none")
    plain, found, rewards = advantages_of(instance, lambda _, row: [float(k % 4 == 0) for k, _ in enumerate(row)])
    assert rewards.sum() == len(rewards) / 4
    torch.testing.assert_close(found, plain)
    assert found.max() == 0.75


def test_groups_and_domains_may_be_names(tmp_path):
    names = {"group": ["young", "old", None], "domain": ["x-ray", "skin"]}
    named = {what: [names[what][i] for i in dataset()[what]] for what in names}
    columns = {"group_names": ["young", "old"], "domain_column": "domain", "domain_names": ["x-ray", "skin"]}
    found = {}
    for data in (dataset(), dataset(**named)):
        instance = trainer(tmp_path, data=data, columns=columns, max_steps=3)
        _, advantages, _ = advantages_of(instance, reward)
        found[len(found)] = advantages, instance.fair.history.totals()
        assert "fair/weight/skin/group_unknown" in {key for line in instance.state.log_history for key in line}
    (ids, history), (texts, history_of_texts) = found.values()
    assert torch.equal(ids, texts)
    assert torch.equal(history, history_of_texts)
    assert history[0].sum() > 0


@pytest.mark.parametrize(
    ("columns", "group", "message"),
    [
        ({}, "young", r"column 'group': .*ids 0 \.\. 1, got 'young'; add it to group_names"),
        ({"group_names": ["young", "old"]}, "Old", r"column 'group': .*'young', 'old' or ids 0 \.\. 1, got 'Old'; add"),
        ({}, 2, r"column 'group': .*ids 0 \.\. 1, got 2"),
        ({"group_names": [1, 0]}, 2, r"column 'group': .*1, 0, got 2"),
    ],
)
def test_labels_that_are_not_known_are_named(tmp_path, columns, group, message):
    instance = trainer(tmp_path, FairGRPOAdvantage(2), data=dataset(group=[group] * 12), columns=columns)
    with pytest.raises(ValueError, match=message):
        instance.train()


def test_there_is_one_name_for_each_group(tmp_path):
    with pytest.raises(ValueError, match=r"group_names: .*2 groups, got \['young'\]"):
        trainer(tmp_path, columns={"group_names": ["young"]})
    with pytest.raises(TypeError, match="domain_names: .*'skin'"):
        trainer(tmp_path, columns={"domain_column": "domain", "domain_names": "skin"})
