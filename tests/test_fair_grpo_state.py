"""What FairGRPO remembers: histories, discovery, saving, several processes, and cost a step."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import f_oneway
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch.utils._python_dispatch import TorchDispatchMode

from fairloss import FairGRPOAdvantage, fair_grpo_advantages
from fairloss.policy import RewardHistory
from fairloss.policy.discovery import Discovery, choose_clusters, differ, quantile_features
from tests import oracles_policy as oracle
from tests.test_fair_grpo import batch, rows
from tests.two_processes import two_processes

MODES = ["batch", "cumulative", "ema"]


def stream(steps, **options):
    return [batch(seed, **options) for seed in range(steps)]


def with_unknown(data):
    rewards, groups, domains = data
    return rewards, torch.where(groups > 1, -1, groups), domains


@pytest.mark.parametrize("mode", MODES)
def test_totals_against_a_loop_over_all_steps(mode):
    module = FairGRPOAdvantage(4, 3, history=mode, decay=0.8)
    kept = []
    for step, (rewards, groups, domains) in enumerate(stream(6)):
        rewards[step] = torch.nan
        groups[::6] = -1
        module(rewards, groups, domains)
        kept.append((rewards, groups, domains))
    wanted = torch.zeros(3, 3, 5, dtype=torch.float64)
    for age, (rewards, groups, domains) in enumerate(reversed(kept)):
        factor = {"batch": float(age == 0), "cumulative": 1.0, "ema": 0.8**age}[mode]
        for row, group, domain in zip(rows(rewards), groups.tolist(), domains.tolist(), strict=True):
            scored = [r for r in row if r is not None]
            if scored:
                wanted[0, domain, group] += factor  # -1, the unknown, is the last column
                wanted[1, domain, group] += factor * len(scored)
                wanted[2, domain, group] += factor * sum(scored)
    torch.testing.assert_close(module.history.totals(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("discover", [None, "kmeans"])
def test_update_then_scale_is_forward(mode, discover):
    once = FairGRPOAdvantage(4, 3, history=mode, discover_groups=discover)
    twice = copy.deepcopy(once)
    for data in map(with_unknown, stream(4)):
        twice.update(*data)
        torch.testing.assert_close(twice.scale(*data), once(*data), rtol=1e-12, atol=1e-12)
        assert torch.equal(twice.history.totals(), once.history.totals())


def test_scale_alone_remembers_nothing_and_knows_nothing_of_the_batch():
    module = FairGRPOAdvantage(4, 3, batch_normalize=False)
    rewards, groups, domains = batch()
    module(rewards, torch.where(groups == 3, 2, groups), domains)
    before = module.state_dict()["history._extra_state"].clone()
    module.scale(rewards, groups, domains)
    assert torch.equal(module.state_dict()["history._extra_state"], before)
    assert (module.last.weights[groups == 3] == 1).all()
    assert (module.last.weights[groups == 0] != 1).any()


def test_the_history_advances_in_training_alone_and_under_no_grad():
    module = FairGRPOAdvantage(4, 3, discover_groups="kmeans")
    data = with_unknown(batch())
    with torch.no_grad():
        module(*data)
    state = copy.deepcopy(module.state_dict())
    assert module.history.totals()[0].sum() == 40
    expected = copy.deepcopy(module)(*data)
    module.eval()
    # In evaluation the batch counts for its own weights, as it does in training, and is forgotten.
    torch.testing.assert_close(module(*data), expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(module.state_dict()[k], v) for k, v in state.items())
    module.train()(*data)
    assert module.history.totals()[0].sum() == 80


def test_the_function_with_past_is_the_module():
    module = FairGRPOAdvantage(4, 3)
    for data in stream(3):
        past = module.history.totals()
        found = fair_grpo_advantages(*data, num_groups=4, num_domains=3, past=past)
        torch.testing.assert_close(module(*data), found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("discover", "variant"), [(None, "default"), ("kmeans", "default"), ("kmeans", "released")])
def test_state_dict_resumes_bit_for_bit(mode, discover, variant, tmp_path):
    if variant == "released" and mode != "cumulative":
        with pytest.raises(ValueError, match="history: .* released"):
            FairGRPOAdvantage(4, 3, history=mode, discover_groups=discover, variant=variant)
        return
    from safetensors.torch import load_file, save_file

    def make():
        return FairGRPOAdvantage(4, 3, history=mode, discover_groups=discover, variant=variant, reservoir_size=16)

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
        saved = FairGRPOAdvantage(4, 3, **options)
        saved(*with_unknown(batch()))
        other = FairGRPOAdvantage(5, 3, **options)
        with pytest.raises((ValueError, RuntimeError), match="layout"):
            other.load_state_dict(saved.state_dict())
        assert other.history.totals().sum() == 0
    module = FairGRPOAdvantage(4, 3, **released)
    module(*with_unknown(batch()))
    before = module.discovery.get_extra_state()
    for bad in (before[:-3], before.float(), torch.zeros(200, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="state"):
            module.discovery.set_extra_state(bad)
        assert torch.equal(module.discovery.get_extra_state(), before)


def test_casts_leave_the_state_alone_and_copies_are_complete():
    module = FairGRPOAdvantage(4, 3)
    module(*batch())
    before = module.history.totals()
    module.bfloat16().half()
    assert module.history.counts.dtype == torch.int64
    assert torch.equal(module.history.totals(), before)
    assert module.to("meta").history.sums.device.type == "meta"
    other = FairGRPOAdvantage(4, 3)
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
    module = FairGRPOAdvantage(4, 3, history=mode)
    data = [batch(seed, q=16, r=4, dtype=torch.float32) for seed in range(20)]
    sizes, costs = set(), set()
    for step in range(steps):
        if step in (0, steps - 1):
            with Count() as count:
                found = module(*data[step % 20])
            costs.add((count.calls, count.numbers))
        else:
            found = module(*data[step % 20])
        sizes.add(module.history.get_extra_state().numel())
        assert abs(float(found.std()) - 1) < 1e-5
    assert len(sizes) == len(costs) == 1
    if mode == "cumulative":
        assert int(module.history.counts[0].sum()) == 16 * steps


def test_the_released_variant_loses_its_deviation_where_the_default_does_not():
    released, default = FairGRPOAdvantage(4, 3, variant="released"), FairGRPOAdvantage(4, 3)
    data = batch(q=512, r=4)
    for module in (released, default):
        module(*data)
        module.history.counts.mul_(10_000)
        module.history.sums.mul_(10_000)
    assert released(*data).std() < 0.9
    assert default(*data).std().item() == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------- discovery


def test_quantile_features_against_numpy():
    rewards = torch.rand(6, 5, dtype=torch.float64)
    rewards[1, 2:] = rewards[4, 1:] = torch.nan
    found = quantile_features(rewards, 8).numpy()
    for row, values in zip(found, rewards.numpy(), strict=True):
        kept = values[~np.isnan(values)]
        np.testing.assert_allclose(row[:8], np.quantile(kept, np.linspace(0, 1, 8)), rtol=1e-6)
        assert row[8:].tolist() == pytest.approx([kept.mean(), kept.var() * len(kept), len(kept)], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_number_of_clusters_by_silhouette_and_elbow(seed):
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(60, 3)) + 4.0 * (seed % 3) * generator.integers(0, 2, (60, 1))
    fits = {k: KMeans(k, random_state=0, n_init=4).fit(points) for k in (1, 2, 3)}
    scores = {k: silhouette_score(points, fits[k].labels_) for k in (2, 3)}
    best = max(scores, key=scores.get)
    assert choose_clusters(points, "silhouette", 0, 4).n_clusters == (best if scores[best] >= 0.25 else 1)
    first, second = (fits[k].inertia_ - fits[k + 1].inertia_ for k in (1, 2))
    assert choose_clusters(points, "elbow", 0, 4).n_clusters == (2 if second < 0.1 * first else 3)
    assert choose_clusters(points, 5, 0, 4).n_clusters == 5


def test_never_more_clusters_than_distinct_points():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_clusters(np.ones((5, 2)), "silhouette", 0, 4).n_clusters == 1
        assert choose_clusters(np.eye(2), "silhouette", 0, 4).n_clusters == 1
        assert choose_clusters(np.repeat(np.eye(2), 4, 0), "elbow", 0, 4).n_clusters == 2
        assert choose_clusters(np.repeat(np.eye(2), 4, 0), 7, 0, 4).n_clusters == 2


def test_discovered_clusters_are_weighted_as_groups_of_their_size_and_mean():
    hard, easy = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]), torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0])
    rewards = torch.cat([hard.expand(6, 8), easy.expand(30, 8)]).double()
    blind = FairGRPOAdvantage(2, discover_groups="kmeans", max_ratio=None)
    told = FairGRPOAdvantage(2, max_ratio=None)
    for _ in range(3):
        found = blind(rewards, torch.full((36,), -1))
        expected = told(rewards, (torch.arange(36) >= 6).long())
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    names = {row.group for row in blind.table()}
    assert names == {"cluster 0", "cluster 1"}


@pytest.mark.parametrize("rate", [0.5, 0.2, None])
def test_prompts_of_one_difficulty_stay_one_group(rate):
    split = 0
    for seed in range(20):
        rewards = torch.rand(100, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rewards = rewards if rate is None else (rewards < rate).double()
        module = FairGRPOAdvantage(1, discover_groups="kmeans")
        module(rewards, torch.full((100,), -1))
        split += len(module.table()) > 1
    assert split <= 1
    # The elbow, and the silhouette alone, split all of them.
    points = quantile_features(rewards, 8)[:, :8].double().numpy()
    assert choose_clusters(points, "elbow", 0, 4).n_clusters > 1
    assert choose_clusters(points, "silhouette", 0, 4).n_clusters > 1


def test_the_test_of_difference_against_scipy():
    generator = np.random.default_rng(0)
    for spread in (0.0, 0.1, 0.3):
        prompts = [generator.normal(spread * generator.normal(), 1, n) for n in generator.integers(2, 9, 30)]
        p = f_oneway(*prompts).pvalue
        moments = [np.array([f(x) for x in prompts]) for f in (np.mean, lambda x: ((x - x.mean()) ** 2).sum(), len)]
        assert differ(*moments, level=p * 1.0001)
        assert not differ(*moments, level=p * 0.9999)
    one = np.ones(3)
    assert not differ(np.array([0.0, 1, 1]), 0 * one, one)
    assert differ(np.array([0.0, 1, 1]), 0 * one, 4 * one)
    assert not differ(one, 0 * one, 4 * one)
    assert not differ(one[:1], one[:1], 4 * one[:1])


def test_prompts_that_differ_in_the_order_of_rollouts_alone_are_one_group():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.stack([torch.linspace(0, 1, 10)[torch.randperm(10, generator=generator)] for _ in range(30)])
    module = FairGRPOAdvantage(1, discover_groups="kmeans")
    module(rewards, torch.full((30,), -1))
    assert [row.group for row in module.table()] == ["cluster 0"]


def test_discovery_leaves_labelled_prompts_and_other_domains_alone():
    rewards, groups, domains = batch()
    labelled = FairGRPOAdvantage(4, 3)
    blind = FairGRPOAdvantage(4, 3, discover_groups="kmeans")
    torch.testing.assert_close(
        blind(rewards, groups, domains), labelled(rewards, groups, domains), rtol=1e-14, atol=1e-14
    )
    groups = torch.where(domains == 1, -1, groups)
    blind(rewards, groups, domains)
    assert {row.domain for row in blind.table() if "cluster" in row.group} == {1}


def test_discovery_in_ragged_batches_is_that_of_padded_ones():
    rewards, groups, domains = with_unknown(batch())
    rewards[3, 4:] = rewards[9, :2] = torch.nan
    keep = ~torch.isnan(rewards)
    index = torch.arange(40).unsqueeze(1).expand(-1, 6)[keep]
    options = {"discover_groups": "kmeans"}
    padded = FairGRPOAdvantage(4, 3, **options)(rewards, groups, domains)
    flat = FairGRPOAdvantage(4, 3, **options)(rewards[keep], groups[index], domains[index], prompt_ids=index)
    torch.testing.assert_close(padded[keep], flat, rtol=1e-12, atol=1e-12)


def test_the_sample_is_uniform_over_the_whole_stream_or_fades():
    held = {"cumulative": np.zeros(40), "ema": np.zeros(40)}
    for mode, counts in held.items():
        for seed in range(400):
            discovery, memory, seen = Discovery(1, 1, 2, 10, seed, mode), np.zeros((10, 3)), 0
            for step in range(4):
                arrivals = np.arange(10.0)[:, None] + 10 * step + np.zeros((10, 3))
                seen = discovery._push(memory, seen, arrivals, domain=0)
            assert seen == 40
            counts[memory[:, 0].astype(int)] += 1
    # 400 samples of 10 of 40: each prompt is expected 100 times, with deviation sqrt(400 * 1/4 * 3/4) = 8.7.
    assert abs(held["cumulative"] - 100).max() < 4 * 8.7
    fading = held["ema"].reshape(4, 10).mean(1)
    assert (np.diff(fading) > 10).all()


def test_released_discovery_needs_equal_counts():
    module = FairGRPOAdvantage(2, variant="released", discover_groups="kmeans")
    module(torch.rand(4, 5), torch.full((4,), -1))
    with pytest.raises(ValueError, match="equally many"):
        module(torch.rand(4, 6), torch.full((4,), -1))
    assert module.history.totals()[0].sum() == 4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"history": "window"}, "history"),
        ({"decay": 1.0}, "decay"),
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
    module = FairGRPOAdvantage(3, 2)
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


def test_history_alone():
    history = RewardHistory(2, mode="ema", decay=0.5)
    for _ in range(2):
        history.advance(torch.ones(3, 1, 3, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    assert history.totals()[0, 0].tolist() == [1.5, 1.5, 1.5]


# ---------------------------------------------------------------------------------------------------------- processes


OPTIONS = [
    {},
    {"history": "ema"},
    {"reward_shift": "min"},
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
        module = FairGRPOAdvantage(4, 3, process_group=torch.distributed.group.WORLD, **options)
        mine = slice(0, 15) if rank == 0 else slice(15, 40)
        found.append(([module(*(t[mine] for t in data)) for data in steps_for(options)], module.state_dict()))
    return found


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    results = two_processes(run_rank, tmp_path)
    for options, (first, first_state), (second, second_state) in zip(OPTIONS, *results, strict=True):
        alone = FairGRPOAdvantage(4, 3, **options)
        wanted = [alone(*data) for data in steps_for(options)]
        for a, b, expected in zip(first, second, wanted, strict=True):
            torch.testing.assert_close(torch.cat([a, b]), expected, rtol=1e-12, atol=1e-12)
        for name, value in alone.state_dict().items():
            assert torch.equal(first_state[name], second_state[name])
            assert torch.equal(first_state[name], value)
