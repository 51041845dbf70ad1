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


def test_one_prompt_a_batch_is_weighted(tmp_path):
    """TRL's defaults on one device: eight completions, eight generations, whatever is accumulated."""
    from trl import GRPOConfig

    defaults = {"per_device_train_batch_size": 8, "num_generations": 8, "gradient_accumulation_steps": 1}
    assert all(
        getattr(GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), k) == v for k, v in defaults.items()
    )
    found = {}
    for name, options in (
        ("one", {"max_steps": 12}),
        ("accumulated", {"gradient_accumulation_steps": 3, "max_steps": 4}),
    ):
        instance = trainer(tmp_path, FairGRPOAdvantage(2), columns={}, **{**defaults, **options})
        instance.args.logging_steps = 1
        _, advantages, _ = advantages_of(
            instance, lambda _, row: [float(k % 4 < (1 if i % 4 in (1, 2) else 3)) for k, i in enumerate(row)]
        )
        lines = instance.state.log_history
        weights = [line["fair/weight/group_1"] for line in lines if "fair/weight/group_1" in line]
        found[name] = advantages, weights
        assert any(abs(weight - 1) > 0.1 for weight in weights)
        # The hard group's prompts are worth more than the easy one's, one by one.
        sizes = advantages.view(-1, 8).abs().amax(1)
        assert len({round(float(size), 3) for size in sizes}) > 2


def two_rewards(tmp_path, answers, fair=None, data=None, **arguments):
    """A trainer with an accuracy reward and a format reward that answers where ``answers(row)`` says so."""

    def accuracy(completions, row, **_):
        return [float(k % 2) for k, _ in enumerate(row)]

    def form(completions, row, **_):
        return [1.0 if answers(i) else None for i in row]

    from fairloss.integrations.trl import FairGRPOTrainer
    from tests.integrations.test_trl import config, model, tokenizer

    fair = FairGRPOAdvantage(2, size_power=0) if fair is None else fair
    options = {"max_steps": 6, "gradient_accumulation_steps": 1} | arguments.pop("options", {})
    return FairGRPOTrainer(
        model=model(), processing_class=tokenizer(), reward_funcs=[accuracy, form], args=config(tmp_path, **options),
        train_dataset=dataset(group=[i % 2 for i in range(12)]) if data is None else data, fair=fair, **arguments,
    )  # fmt: skip


def test_a_reward_that_leaves_out_a_group_does_not_steer_the_weights(tmp_path):
    instance = two_rewards(tmp_path, lambda row: row % 2 == 0)
    with pytest.warns(UserWarning, match=r"'form' gave no reward .* looks at 'accuracy'.*fairness_reward=") as caught:
        instance.train()
    assert sum("fairness_reward=" in str(w.message) for w in caught) == 1
    weights = [v for line in instance.state.log_history for k, v in line.items() if k.startswith("fair/weight/")]
    assert len(weights) >= 6
    # Both groups are right half of the time; a prompt before the first of the other group weighs 1 as well.
    assert weights == pytest.approx([1.0] * len(weights))
    totals = instance.fair.history.totals()[:, 0]
    assert (totals[2] / totals[1].clamp(min=1))[:2].tolist() == pytest.approx([0.5, 0.5])
    # What is learnt from is the sum of all, in which equal additions cancel.
    assert any(abs(x) > 0 for x in instance._logs["advantages"])


@pytest.mark.parametrize("asked", ["accuracy", [1.0, 0.0]])
def test_what_fairness_looks_at_can_be_named(tmp_path, asked, recwarn):
    instance = two_rewards(tmp_path, lambda row: row % 2 == 0, fairness_reward=asked)
    instance.train()
    assert not any("fairness_reward" in str(w.message) for w in recwarn)
    totals = instance.fair.history.totals()[:, 0]
    assert (totals[2] / totals[1].clamp(min=1))[:2].tolist() == pytest.approx([0.5, 0.5])
    assert totals[0, :2].sum() == 6


def test_functions_that_answer_for_all_are_looked_at_together(tmp_path, recwarn):
    instance = two_rewards(tmp_path, lambda row: True)
    instance.train()
    assert not any("fairness_reward" in str(w.message) for w in recwarn)
    totals = instance.fair.history.totals()[:, 0]
    assert (totals[2] / totals[1].clamp(min=1))[:2].tolist() == pytest.approx([0.75, 0.75])


def test_a_dropped_reward_stays_dropped_on_resuming(tmp_path):
    first = two_rewards(tmp_path, lambda row: row % 2 == 0, options={"save_strategy": "steps", "save_steps": 3})
    with pytest.warns(UserWarning, match="'form' gave no reward"):
        first.train()
    again = two_rewards(tmp_path, lambda row: row % 2 == 0, options={"max_steps": 8})
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert again._fair_dropped == ["form"]
    totals = again.fair.history.totals()[:, 0]
    assert totals[0].sum() > first.fair.history.totals()[0].sum()
    assert (totals[2] / totals[1].clamp(min=1))[:2].tolist() == pytest.approx([0.5, 0.5])


def test_where_no_function_answers_for_all_their_mean_is_looked_at(tmp_path):
    instance = two_rewards(tmp_path, lambda row: True)

    def even(completions, row, **_):
        return [None if i % 2 else float(k % 2) for k, i in enumerate(row)]

    def odd(completions, row, **_):
        return [float(k % 2) if i % 2 else None for k, i in enumerate(row)]

    instance.reward_funcs, instance.reward_func_names = [even, odd], ["even", "odd"]
    with pytest.warns(UserWarning, match="at the mean of those that answer"):
        instance.train()
    totals = instance.fair.history.totals()[:, 0]
    assert (totals[2] / totals[1].clamp(min=1))[:2].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("asked", ["acc", [1.0], [0.0, 0.0]])
def test_a_reward_that_is_not_there_is_named(tmp_path, asked):
    with pytest.raises(ValueError, match="fairness_reward: .*'accuracy', 'form'"):
        two_rewards(tmp_path, lambda row: True, fairness_reward=asked)


def test_negative_rewards_train_with_one_warning(tmp_path):
    """TRL's quick start rewards with minus a length."""
    instance = trainer(tmp_path, FairGRPOAdvantage(2), columns={}, max_steps=4)
    with pytest.warns(UserWarning, match="rewards: expected rewards >= 0") as caught:
        _, found, _ = advantages_of(instance, lambda texts, row: [-float(k % 3) for k, _ in enumerate(row)])
    assert sum("rewards >= 0" in str(w.message) for w in caught) == 1
    assert found.isfinite().all()
    assert found.abs().sum() > 0
