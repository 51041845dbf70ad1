"""What FairGRPO remembers: histories, discovery, saving, several processes, and cost a step."""

import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fairloss
from fairloss import FairGRPOAdvantage, fair_grpo_advantages
from fairloss.policy import GroupDROAdvantage
from tests.oracles import policy as oracle
from tests.policy.rollouts import batch, rows
from tests.two_processes import two_processes

MODES = ["batch", "cumulative", "ema"]


def stream(steps, **options):
    return [batch(seed, **options) for seed in range(steps)]


def with_unknown(data):
    rewards, groups, domains = data
    return rewards, torch.where(groups > 1, -1, groups), domains


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("discover", [None, "kmeans"])
def test_update_then_scale_is_forward(mode, discover):
    once = FairGRPOAdvantage(4, num_domains=3, history=mode, discover_groups=discover)
    twice = copy.deepcopy(once)
    for data in map(with_unknown, stream(4)):
        twice.update(*data)
        torch.testing.assert_close(twice.scale(*data), once(*data), rtol=1e-12, atol=1e-12)
        assert torch.equal(twice.history.totals(), once.history.totals())


def test_scale_alone_remembers_nothing_and_knows_nothing_of_the_batch():
    module = FairGRPOAdvantage(4, num_domains=3, batch_normalize=False)
    rewards, groups, domains = batch()
    module(rewards, torch.where(groups == 3, 2, groups), domains)
    before = module.state_dict()["history._extra_state"].clone()
    module.scale(rewards, groups, domains)
    assert torch.equal(module.state_dict()["history._extra_state"], before)
    assert (module.last.weights[groups == 3] == 1).all()
    assert (module.last.weights[groups == 0] != 1).any()


def test_the_history_advances_in_training_alone_and_under_no_grad():
    module = FairGRPOAdvantage(4, num_domains=3, discover_groups="kmeans")
    data = with_unknown(batch())
    with torch.no_grad():
        module(*data)
    state = copy.deepcopy(module.state_dict())
    assert module.history.totals()[0].sum() == 40
    expected = copy.deepcopy(module)(*data)
    module.eval()
    # In evaluation what is remembered alone counts.
    assert torch.equal(module(*data), module.scale(*data))
    assert not torch.allclose(module(*data), expected)
    assert all(torch.equal(module.state_dict()[k], v) for k, v in state.items())
    module.train()(*data)
    assert module.history.totals()[0].sum() == 80


@pytest.mark.parametrize("module", [FairGRPOAdvantage(4, discover_groups="kmeans"), GroupDROAdvantage(4)])
def test_frozen_it_reads_and_reset_it_starts_anew(module):
    start = copy.deepcopy(module.state_dict())
    rewards, groups, _ = with_unknown(batch())
    module(rewards, groups)
    state = copy.deepcopy(module.state_dict())
    wanted = module.eval()(rewards[:9], groups[:9])
    module.train()
    with fairloss.frozen(module):
        assert torch.equal(module(rewards[:9], groups[:9]), wanted)
    assert all(torch.equal(module.state_dict()[k], v) for k, v in state.items())
    module.reset()
    assert all(torch.equal(module.state_dict()[k], v) for k, v in start.items())


def test_a_history_of_another_version_is_refused_with_the_cure():
    module, older = FairGRPOAdvantage(2), GroupDROAdvantage(2)  # of three tensors, as the history of 0.1 was
    with pytest.raises((ValueError, RuntimeError), match="state_dict: .*fairloss 0.1 .* start a new one"):
        module.load_state_dict({"history._extra_state": older.state_dict()["_extra_state"]})


def test_the_function_with_past_is_the_module():
    module = FairGRPOAdvantage(4, num_domains=3)
    for data in stream(3):
        past = module.history.totals()
        found = fair_grpo_advantages(*data, num_groups=4, num_domains=3, past=past)
        torch.testing.assert_close(module(*data), found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("discover", "variant"), [(None, "default"), ("kmeans", "default"), ("kmeans", "released")])
def test_state_dict_resumes_bit_for_bit(mode, discover, variant, tmp_path):
    if variant == "released" and mode != "cumulative":
        with pytest.raises(ValueError, match="history: .* released"):
            FairGRPOAdvantage(4, num_domains=3, history=mode, discover_groups=discover, variant=variant)
        return
    from safetensors.torch import load_file, save_file

    def make():
        return FairGRPOAdvantage(
            4, num_domains=3, history=mode, discover_groups=discover, variant=variant, reservoir_size=16
        )

    through, first, second = make(), make(), make()
    data = [with_unknown(d) for d in stream(6)]
    wanted = [through(*d) for d in data]
    for d in data[:3]:
        first(*d)
    save_file(first.state_dict(), tmp_path / "state.safetensors")
    second.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for d, expected in zip(data[3:], wanted[3:], strict=True):
        assert torch.equal(second(*d), expected)
    for name, value in through.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_a_state_of_other_sizes_is_refused_and_nothing_changes():
    released = {"discover_groups": "kmeans", "variant": "released"}
    for options in ({}, released):
        saved = FairGRPOAdvantage(4, num_domains=3, **options)
        saved(*with_unknown(batch()))
        other = FairGRPOAdvantage(5, num_domains=3, **options)
        with pytest.raises((ValueError, RuntimeError), match="layout"):
            other.load_state_dict(saved.state_dict())
        assert other.history.totals().sum() == 0
    module = FairGRPOAdvantage(4, num_domains=3, **released)
    module(*with_unknown(batch()))
    before = module.discovery.get_extra_state()
    for bad in (before[:-3], before.float(), torch.zeros(200, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="state"):
            module.discovery.set_extra_state(bad)
        assert torch.equal(module.discovery.get_extra_state(), before)


@pytest.mark.parametrize(
    ("saved", "here", "named"),
    [
        (
            "cumulative",
            "ema",
            r"counts as torch\.int64 of shape \(2, 4, 5\) .*torch\.float64 of shape \(2, 4, 5\)",
        ),
        ("ema", "cumulative", r"counts as torch\.float64 .*torch\.int64"),
    ],
)
def test_a_state_of_another_history_is_refused_and_nothing_changes(saved, here, named):
    """Their bytes are as many; taken for one another, counts of 5 would be 2e-323, or 4.6e18."""
    before, other = (
        FairGRPOAdvantage(4, num_domains=3, history=saved),
        FairGRPOAdvantage(4, num_domains=3, history=here),
    )
    before(*batch())
    with pytest.raises((ValueError, RuntimeError), match=f"state_dict: .*RewardHistory, got {named}.*arguments"):
        other.load_state_dict(before.state_dict())
    assert other.history.totals().abs().sum() == 0


def test_casts_leave_the_state_alone_and_copies_are_complete():
    module = FairGRPOAdvantage(4, num_domains=3)
    module(*batch())
    before = module.history.totals()
    module.bfloat16().half()
    assert module.history.counts.dtype == torch.int64
    assert torch.equal(module.history.totals(), before)
    assert torch.equal(module.to("meta").history.totals(), before)  # state has values wherever the parameters are
    other = FairGRPOAdvantage(4, num_domains=3)
    other(*batch())
    for clone in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert torch.equal(clone(*batch(1)), copy.deepcopy(other)(*batch(1)))


class Count(TorchDispatchMode):
    """Counts the tensor operations under it, and the numbers that they return."""

    def __init__(self):
        super().__init__()
        self.calls, self.numbers = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        self.numbers += sum(
            t.numel() for t in (out if isinstance(out, (tuple, list)) else [out]) if hasattr(t, "numel")
        )
        return out


@pytest.mark.parametrize("mode", ["cumulative", "ema"])
@pytest.mark.parametrize("steps", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_cost_and_state_do_not_grow_and_the_deviation_stays_one(mode, steps):
    module = FairGRPOAdvantage(4, num_domains=3, history=mode)
    data = [batch(seed, q=16, r=4, dtype=torch.float32) for seed in range(20)]
    sizes, costs, squares = set(), set(), []
    for step in range(steps):
        if step in (0, steps - 1):
            with Count() as count:
                found = module(*data[step % 20])
            costs.add((count.calls, count.numbers))
        else:
            found = module(*data[step % 20])
        sizes.add(module.history.get_extra_state().numel())
        informative = (data[step % 20][0] != data[step % 20][0][:, :1]).any(1)
        squares += found[informative].square().flatten().tolist()
    assert sum(squares) / len(squares) == pytest.approx(1, abs=0.03)
    assert len(sizes) == len(costs) == 1
    if mode == "cumulative":
        assert int(module.history.counts[0].sum()) == 16 * steps


def test_the_released_variant_loses_its_deviation_where_the_default_does_not():
    released, default = FairGRPOAdvantage(4, num_domains=3, variant="released"), FairGRPOAdvantage(4, num_domains=3)
    data = batch(q=512, r=4)
    for module in (released, default):
        module(*data)
        module.history.counts.mul_(10_000)
        module.history.sums.mul_(10_000)
    assert released(*data).std() < 0.9
    informative = (data[0] != data[0][:, :1]).any(1)
    assert default(*data)[informative].std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"history": "window"}, "history"),
        ({"half_life": 0}, "half_life"),
        ({"discover_groups": "dbscan"}, "discover_groups"),
        ({"discover_groups": "kmeans", "num_clusters": "gap"}, "num_clusters"),
        ({"discover_groups": "kmeans", "num_clusters": 0}, "num_clusters"),
        ({"discover_groups": "kmeans", "num_features": 1}, "num_features"),
        ({"discover_groups": "kmeans", "reservoir_size": 1}, "reservoir_size"),
        ({"num_groups": (2, 2)}, "intersect_groups"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        FairGRPOAdvantage(**{"num_groups": 2, **arguments})


def test_diagnostics_list_every_group_that_was_seen():
    module = FairGRPOAdvantage(3, num_domains=2)
    assert module.table() == []
    rewards = torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 1, 1]])
    module(rewards, torch.tensor([0, 0, 2, -1]), torch.tensor([0, 0, 1, 1]))
    naive = oracle.Naive()
    _, weights = naive(rows(rewards), [0, 0, 1, 1], [0, 0, 2, -1])
    assert [(row.domain, row.group, row.prompts) for row in module.table()] == [
        (0, "0", 2),
        (1, "2", 1),
        (1, "unknown", 1),
    ]
    assert [row.mean_reward for row in module.table()] == pytest.approx([0.625, 0.25, 0.75])
    assert [row.weight for row in module.table()] == pytest.approx([weights[0], weights[2], weights[3]], rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- processes


OPTIONS = [
    {},
    {"history": "ema"},
    {"reward_shift": "min"},
    {"history": "batch"},
    {"discover_groups": "kmeans", "reservoir_size": 16},
    {"discover_groups": "kmeans", "variant": "released"},
]


def steps_for(options):
    steps = stream(3)
    if "discover_groups" in options:
        steps = [with_unknown(data) for data in steps]
    if "reward_shift" in options:
        steps = [(rewards - 0.5, groups, domains) for rewards, groups, domains in steps]
    return steps


def run_rank(rank):
    found = []
    for options in OPTIONS:
        module = FairGRPOAdvantage(4, num_domains=3, process_group=torch.distributed.group.WORLD, **options)
        mine = slice(0, 15) if rank == 0 else slice(15, 40)
        found.append(([module(*(t[mine] for t in data)) for data in steps_for(options)], module.state_dict()))
    return found


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    results = two_processes(run_rank, tmp_path)
    for options, (first, first_state), (second, second_state) in zip(OPTIONS, *results, strict=True):
        alone = FairGRPOAdvantage(4, num_domains=3, **options)
        wanted = [alone(*data) for data in steps_for(options)]
        for a, b, expected in zip(first, second, wanted, strict=True):
            torch.testing.assert_close(torch.cat([a, b]), expected, rtol=1e-12, atol=1e-12)
        for name, value in alone.state_dict().items():
            assert torch.equal(first_state[name], second_state[name])
            if name != "history._extra_state":
                assert torch.equal(first_state[name], value)
        of_ranks = FairGRPOAdvantage(4, num_domains=3, **options)
        of_ranks.load_state_dict(first_state)
        # Squared scores are summed in another order.
        torch.testing.assert_close(of_ranks.history.totals(), alone.history.totals(), rtol=1e-12, atol=0)
        assert of_ranks.history.lowest == alone.history.lowest


def refused_on_both(rank):
    # Group 0: mean 0 over both ranks, negative rewards on the first; group 1 earned nothing, beside negative ones.
    module = FairGRPOAdvantage(3, reward_shift=0, process_group=torch.distributed.group.WORLD)
    rewards = torch.tensor([[-1.0, -1], [0, 0], [1, -0.5]] if rank == 0 else [[1.0, 1], [0, 0], [1, 1]])
    found = module(rewards, torch.tensor([-1, 1, 2]))
    with pytest.raises(ValueError, match="rewards: .*a mean of 0 for group 0 of domain 0"):
        module(rewards, torch.tensor([0, 1, 2]))
    return bool(torch.isfinite(found).all())


@pytest.mark.processes
def test_two_processes_refuse_a_mean_of_zero_together(tmp_path):
    assert two_processes(refused_on_both, tmp_path) == [True, True]
