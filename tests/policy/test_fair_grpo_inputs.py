"""What FairGRPO advantages accept, what they refuse by name, and that they compile and wait for no device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fairloss
from fairloss import FairGRPOAdvantage, fair_grpo_advantages
from fairloss.ops.fair_grpo_setting import Options, Setting
from fairloss.policy.prepare import check_result, prepare_batch
from fairloss.policy.rewards import Flat, Rows
from fairloss.policy.weights import Past, compute_advantages
from tests.policy.rollouts import batch


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_other_dtypes_are_computed_in_float32(dtype):
    rewards, groups, domains = batch(dtype=torch.float32)
    found = fair_grpo_advantages(rewards.to(dtype), groups, domains, num_groups=4, num_domains=3)
    assert torch.equal(found, fair_grpo_advantages(rewards, groups, domains, num_groups=4, num_domains=3))


def test_inputs_are_not_modified_and_the_result_has_no_gradient():
    rewards, groups, domains = batch()
    kept = rewards.clone()
    found = fair_grpo_advantages(rewards.requires_grad_(), groups, domains, num_groups=4, num_domains=3)
    assert not found.requires_grad
    assert torch.equal(rewards.detach(), kept)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"rewards": torch.ones(3)}, "rewards: .*shape"),
        ({"rewards": [[1.0]]}, "rewards: .*tensor"),
        ({"rewards": torch.ones(2, 3, dtype=torch.complex64)}, "rewards: .*real"),
        ({"groups": torch.tensor([0, 1, 2])}, r"groups: .*\b2\b"),
        ({"groups": torch.tensor([0.0, 1.0, 1.0])}, "groups: .*integer"),
        ({"groups": torch.tensor([0])}, r"groups: .*\b1\b"),
        ({"domains": torch.tensor([0, 2, 1])}, r"domains: .*\b2\b"),
        ({"domains": None}, "domains: .*needed|domains: expected"),
        ({"prompt_ids": torch.tensor([0, 1, 1])}, "prompt_ids: "),
        ({"prompt_ids": torch.tensor([0.0])}, "prompt_ids: .*integer"),
        ({"past": torch.zeros(3, 2, 3)}, "past: .*shape"),
        ({"num_groups": (2, 3)}, "intersect_groups"),
        ({"num_domains": 0}, "num_domains"),
        ({"max_ratio": 0.5}, "max_ratio"),
        ({"size_power": -1}, "size_power"),
        ({"reward_power": "1"}, "reward_power"),
        ({"reward_shift": "max"}, "reward_shift"),
        ({"variant": "published"}, "variant"),
        ({"eps": 0}, "eps"),
        ({"process_group": "world"}, "process_group"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    good = {"rewards": torch.rand(3, 4), "groups": torch.tensor([0, 1, 1]), "domains": torch.tensor([0, 1, 1])}
    with pytest.raises((ValueError, TypeError), match=named):
        fair_grpo_advantages(**{**good, "num_groups": 2, "num_domains": 2, **arguments})


def test_a_prompt_with_two_groups_is_refused_and_unknown_without_validation():
    rewards, ids = torch.tensor([1.0, 0, 1, 0]), torch.tensor([5, 5, 9, 9])
    groups = torch.tensor([0, 1, 1, 1])
    with pytest.raises(ValueError, match="groups: .*prompt"):
        fair_grpo_advantages(rewards, groups, num_groups=2, prompt_ids=ids)
    module = FairGRPOAdvantage(2, validate=False)
    module(rewards, groups, prompt_ids=ids)
    assert module.history.counts[0].tolist() == [[0, 1, 1], [0, 0, 0]]


def test_compiles_whole_for_rows_and_flat():
    def rows_form(rewards, groups, domains):
        return fair_grpo_advantages(rewards, groups, domains, num_groups=4, num_domains=3, validate=False)

    def flat_form(rewards, groups, domains, ids):
        return fair_grpo_advantages(
            rewards, groups, domains, num_groups=4, num_domains=3, prompt_ids=ids, validate=False
        )

    for q in (40, 23):
        data = batch(q=q)
        ids = torch.arange(q).repeat_interleave(6)
        whole = torch.compile(rows_form, backend="aot_eager", fullgraph=True, dynamic=True)
        torch.testing.assert_close(whole(*data), rows_form(*data), rtol=1e-9, atol=1e-12)
        flat = data[0].reshape(-1), data[1][ids], data[2][ids], ids
        whole = torch.compile(flat_form, backend="aot_eager", fullgraph=True, dynamic=True)
        torch.testing.assert_close(whole(*flat), flat_form(*flat), rtol=1e-9, atol=1e-12)


class Waits(TorchDispatchMode):
    """Raises where a value would have to come to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(
            name in str(func) for name in ("_local_scalar_dense", "nonzero", "unique", "is_nonzero", "equal.default")
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_the_core_never_waits_for_the_device(variant):
    rewards, groups, domains = batch()
    ids = torch.arange(40).repeat_interleave(6)
    with Waits():
        setting = Setting(3, 4, 5, Options(variant=variant), by_history=variant == "default")
        for past in (None, Past(torch.rand(7, 4, 5, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))):
            compute_advantages(Rows(rewards), domains, groups, setting, past=past)
            flat = Flat(rewards.reshape(-1), ids, torch.arange(240) // 2)
            compute_advantages(flat, domains[ids], groups[ids], setting, past=past)
    with pytest.raises(AssertionError), Waits():
        float(rewards.sum())


@pytest.mark.parametrize("with_domains", [False, True])
def test_on_a_device_prompts_with_two_ids_are_left_to_the_one_look_at_the_result(with_domains):
    # On "meta" there are no values: whoever asks for one fails.
    rewards, ids = torch.rand(8, device="meta"), torch.zeros(8, dtype=torch.int64, device="meta")
    domains = ids if with_domains else None
    found = prepare_batch(rewards, ids, domains, ids, num_groups=2, num_domains=1, validate=True)
    assert list(found.conflicts) == (["groups", "domains"] if with_domains else ["groups"])
    data = [torch.tensor([1.0, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([0, 0, 0]), torch.tensor([4, 4, 9])]
    batch = prepare_batch(*data, num_groups=2, num_domains=1, validate=False)
    result = compute_advantages(
        batch.rewards,
        batch.domains,
        batch.groups + 1,
        Setting(1, 2, 3),
    )
    check_result(result, batch, Options(), None)
    for conflicts in ({"groups": False, "domains": True}, {"domains": True}):
        torn = batch._replace(conflicts={name: torch.tensor(value) for name, value in conflicts.items()})
        with pytest.raises(ValueError, match="domains: .*of a prompt"):
            check_result(result, torn, Options(), None)


def test_public_names():
    assert {"FairGRPOAdvantage", "fair_grpo_advantages", "fair_grpo_policy_loss"} <= set(fairloss.__all__)
