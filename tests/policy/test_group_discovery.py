"""Groups that FairGRPO finds where labels are missing: features, number of clusters, weights, memory."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import f_oneway
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from fairloss import FairGRPOAdvantage
from fairloss.policy import fair_grpo_advantages
from fairloss.policy.discovery import Discovery, ReleasedDiscovery, choose_clusters, differ, quantile_features
from tests.policy.rollouts import batch, draw
from tests.policy.test_fair_grpo_state import with_unknown


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


def test_the_test_of_difference_against_scipy(rng):
    for spread in (0.0, 0.1, 0.3):
        prompts = [rng.normal(spread * rng.normal(), 1, n) for n in rng.integers(2, 9, 30)]
        p = f_oneway(*prompts).pvalue
        moments = [np.array([f(x) for x in prompts]) for f in (np.mean, lambda x: ((x - x.mean()) ** 2).sum(), len)]
        assert differ(*moments, level=p * 1.0001)
        assert not differ(*moments, level=p * 0.9999)
    one = np.ones(3)
    assert not differ(np.array([0.0, 1, 1]), 0 * one, one)
    assert differ(np.array([0.0, 1, 1]), 0 * one, 4 * one)
    assert not differ(one, 0 * one, 4 * one)
    assert not differ(one[:1], one[:1], 4 * one[:1])


def test_prompts_that_differ_in_the_order_of_rollouts_alone_are_one_group(generator):
    rewards = torch.stack([torch.linspace(0, 1, 10)[torch.randperm(10, generator=generator)] for _ in range(30)])
    module = FairGRPOAdvantage(1, discover_groups="kmeans")
    module(rewards, torch.full((30,), -1))
    assert [row.group for row in module.table()] == ["cluster 0"]


def test_discovery_leaves_labelled_prompts_and_other_domains_alone():
    rewards, groups, domains = batch()
    labelled = FairGRPOAdvantage(4, num_domains=3)
    blind = FairGRPOAdvantage(4, num_domains=3, discover_groups="kmeans")
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
    padded = FairGRPOAdvantage(4, num_domains=3, **options)(rewards, groups, domains)
    flat = FairGRPOAdvantage(4, num_domains=3, **options)(
        rewards[keep], groups[index], domains[index], prompt_ids=index
    )
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


def test_released_discovery_takes_every_set_of_right_and_wrong_answers():
    # A center of k-means rounds to -2e-8 in this set and in a third of the drawn ones; no mean of 0 and 1 is negative.
    rewards = torch.tensor([[0.0, 0], [0, 1], [1, 1], [0, 0], [0, 0]])
    module = FairGRPOAdvantage(1, variant="released", discover_groups="kmeans")
    expected = torch.tensor([[0.0, 0], [-2.1213, 2.1213], [0, 0], [0, 0], [0, 0]])
    torch.testing.assert_close(module(rewards, torch.full((5,), -1)), expected, rtol=0, atol=1e-4)
    for size, seed in itertools.product((5, 24), range(20)):
        rewards = (torch.rand(size, 2, generator=torch.Generator().manual_seed(seed)) < 0.4).float()
        rewards[::2] = 0
        module = FairGRPOAdvantage(1, variant="released", discover_groups="kmeans")
        module(rewards, torch.full((size,), -1))
        assert min(row.mean_reward for row in module.table()) >= 0


def test_released_discovery_keeps_the_labels_of_its_own_fit():
    """At equal distances ``predict`` may name another cluster than the fit did, as it does for one prompt here."""
    rng = np.random.default_rng(210)
    rng.integers(1, 4), rng.integers(1, 6), rng.integers(2, 9), rng.integers(1, 5), rng.choice([0, 0.3, 1.0])
    rate, released, held = rng.random((1, 4)), ReleasedDiscovery(1), np.zeros((0, 6), np.float32)
    for _ in range(3):
        q = int(rng.integers(2, 25))
        rng.integers(0, 1, q)
        groups = rng.integers(0, 3, q)
        groups[rng.random(q) < 0.3] = -1
        rewards = (rng.random((q, 6)) < rate[0, groups][:, None]).astype(np.float32)[groups < 0]
        held = np.concatenate([held, rewards])
        proposal = released.propose(
            torch.from_numpy(rewards), torch.zeros(len(rewards), dtype=torch.int64), include=True
        )
        released.commit(proposal)
        fit = KMeans(proposal.clusters.share[0].gt(0).sum().item(), random_state=0, n_init="auto").fit(held)
        assert proposal.labels.tolist() == fit.labels_[len(held) - len(rewards) :].tolist()
    assert (fit.predict(held) != fit.labels_).any()


def cluster_arguments(**change):
    share, mean = torch.full((2, 2), 0.5), torch.tensor([[0.2, 0.9]] * 2)
    parts = {"labels": torch.tensor([0, 1, 0, 1]), "share": share, "mean": mean} | change
    rewards = torch.tensor([[1.0, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    return rewards, torch.full((4,), -1), torch.tensor([0, 0, 1, 1]), tuple(parts.values())


@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.tensor([2, 1, 0, 1])},
        {"labels": torch.tensor([0, 1])},
        {"labels": torch.zeros(4)},
        {"mean": torch.ones(2, 3)},
        {"share": torch.ones(1, 2)},
        {"mean": torch.ones(2, 2, dtype=torch.int64)},
    ],
)
def test_clusters_are_checked(change):
    rewards, groups, domains, clusters = cluster_arguments(**change)
    with pytest.raises((ValueError, TypeError), match="clusters"):
        fair_grpo_advantages(rewards, groups, domains, num_groups=2, num_domains=2, clusters=clusters)
    rewards, groups, domains, clusters = cluster_arguments()
    found = fair_grpo_advantages(rewards, groups, domains, num_groups=2, num_domains=2, clusters=clusters)
    assert found.isfinite().all()


def test_a_clusters_mean_is_that_of_its_rollouts():
    fair = FairGRPOAdvantage(2, discover_groups="kmeans", num_clusters=1)
    nan = float("nan")
    fair(torch.tensor([[1.0, 1, 1, 0], [0, nan, nan, nan]]), torch.tensor([-1, -1]))
    assert [row.mean_reward for row in fair.table()] == [pytest.approx(3 / 5)]


@pytest.mark.parametrize(
    "options", [{"num_clusters": "silhouete"}, {"num_features": 1}, {"reservoir_size": 0}, {"seed": -1}]
)
def test_options_of_discovery_are_checked_without_it(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FairGRPOAdvantage(2, **options)


def test_the_same_ids_in_a_second_epoch():
    """There rows of epoch 2 take the clusters of epoch 1."""
    first, second = (FairGRPOAdvantage(2, discover_groups="kmeans", num_clusters=2) for _ in range(2))
    ids, unknown = torch.arange(24).repeat_interleave(6), torch.full((144,), -1)
    for seed in (0, 1):
        same = first(draw(seed).flatten(), unknown, prompt_ids=ids)
        fresh = second(draw(seed).flatten(), unknown, prompt_ids=ids + 1000 * seed)
        assert torch.equal(same, fresh)


def test_rollouts_have_no_order():
    """There, permuting a prompt's rollouts changed advantages by up to 55 %."""
    rewards, unknown = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)), torch.full((30,), -1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    found = FairGRPOAdvantage(1, discover_groups="kmeans", num_clusters=3)(rewards, unknown)
    turned = FairGRPOAdvantage(1, discover_groups="kmeans", num_clusters=3)(rewards[:, order], unknown)
    torch.testing.assert_close(turned, found[:, order], rtol=1e-4, atol=1e-5)


def test_alike_prompts_stay_one_group():
    """There the elbow returns three clusters of 30 homogeneous sets out of 30."""
    clusters = []
    for seed in range(5):
        module = FairGRPOAdvantage(1, discover_groups="kmeans")
        module(draw(seed, 40, 8, 0.5), torch.full((40,), -1))
        clusters.append(sum(row.group.startswith("cluster") for row in module.table()))
    assert clusters.count(1) >= 4


def test_memory_of_the_discovery_is_bounded():
    module = FairGRPOAdvantage(1, discover_groups="kmeans", reservoir_size=16)
    sizes = set()
    for seed in range(6):
        module(draw(seed, 12, 4), torch.full((12,), -1))
        sizes.add(sum(t.numel() for t in module.state_dict().values()))
    assert len(sizes) == 1
    assert isinstance(module.discovery, Discovery)
