"""FairnessMonitor against scikit-learn, its warnings on the people on whom each trap was seen, and its state.

People: 6,839 of the survival package's `flchain` (Dispenzieri et al., Mayo Clinic Proceedings 87, 2012), death within ten years
by age band, as benchmarks.people_data reads them.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from fairloss import DemographicParityLoss, EqualizedOddsLoss, MaxAccGapLoss, encode_groups
from fairloss.training import FairnessMonitor, FairnessWarning, Snapshot

DATA = Path(__file__).parents[1] / "data" / "flchain.npz"


def binary(rng, n=600, groups=3):
    g = torch.from_numpy(rng.integers(-1, groups, n))
    y = torch.from_numpy(rng.integers(0, 2, n))
    return torch.from_numpy(rng.normal(1.5 * y.numpy() - 0.7 + 0.3 * g.numpy(), 1.0)), y, g


def test_two_classes_are_what_scikit_learn_counts(rng):
    logits, y, g = binary(rng)
    monitor = FairnessMonitor(3, bins=20_000)
    for part in range(0, 600, 64):
        monitor.update(logits[part : part + 64], y[part : part + 64], g[part : part + 64])
    found = monitor.compute()
    p, decided = torch.sigmoid(logits).numpy(), (logits >= 0).numpy()
    labels, ids = y.numpy(), g.numpy()
    for k in range(3):
        t, d, s = labels[ids == k], decided[ids == k], p[ids == k]
        assert found.samples[k] == len(t)
        assert found.accuracy[k] == pytest.approx((t == d).mean())
        assert found.soft_accuracy[k] == pytest.approx(np.where(t == 1, s, 1 - s).mean())
        assert found.tpr[k] == pytest.approx(recall_score(t, d))
        assert found.soft_tpr[k] == pytest.approx(s[t == 1].mean())
        assert found.fpr[k] == pytest.approx(1 - recall_score(t, d, pos_label=0))
        assert found.positive_rate[k] == pytest.approx(d.mean())
        assert found.soft_positive_rate[k] == pytest.approx(s.mean())
        assert found.auc[k] == pytest.approx(roc_auc_score(t, s), abs=1e-3)
        assert found.confidence[k] == pytest.approx(np.maximum(s, 1 - s).mean())
    assert found.gap("tpr") == pytest.approx(np.ptp(found.tpr))
    assert found.overall["accuracy"] == pytest.approx((labels == decided).mean())
    assert found.overall["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, decided))
    assert found.overall["auc"] == pytest.approx(roc_auc_score(labels, p), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_form_of_two_classes_gives_the_same(dtype, rng):
    logits, y, g = binary(rng)
    logits = logits.to(dtype)
    forms = [(logits, y), (logits[:, None], y[:, None].float()), (torch.stack([-logits / 2, logits / 2], 1), y)]
    found = []
    for form, target in forms:
        monitor = FairnessMonitor(3)
        monitor.update(form, target, g)
        found.append(monitor.compute())
    for other in found[1:]:
        np.testing.assert_allclose(other.accuracy, found[0].accuracy)
        np.testing.assert_allclose(
            other.soft_accuracy, found[0].soft_accuracy, atol=2e-2 if dtype != torch.float32 else 1e-6
        )


def test_several_classes_are_means_over_classes(rng):
    y, g = rng.integers(0, 4, 500), rng.integers(0, 2, 500)
    logits = torch.from_numpy(rng.standard_normal((500, 4)) + 2 * np.eye(4)[y])
    y_ignored = torch.from_numpy(np.where(np.arange(500) % 10 == 0, -100, y))
    monitor = FairnessMonitor(2, num_classes=4, bins=20_000)
    monitor.update(logits, y_ignored, torch.from_numpy(g))
    found = monitor.compute()
    kept = y_ignored.numpy() != -100
    p, d = logits.softmax(1).numpy(), logits.argmax(1).numpy()
    for k in range(2):
        at = kept & (g == k)
        assert found.tpr[k] == pytest.approx(recall_score(y[at], d[at], average="macro"))
        assert found.auc[k] == pytest.approx(roc_auc_score(y[at], p[at], multi_class="ovr"), abs=1e-3)
    assert found.overall["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y[kept], d[kept]))
    assert np.isnan(found.positive_rate).all()


def test_state_is_saved_moved_and_reset(rng):
    logits, y, g = binary(rng)
    monitor, other = FairnessMonitor(3), FairnessMonitor(3)
    monitor.update(logits, y, g)
    other.load_state_dict(monitor.state_dict())
    np.testing.assert_array_equal(other.compute().predicted, monitor.compute().predicted)
    monitor.half()
    assert monitor.counts.dtype == torch.float64
    monitor.reset()
    assert np.isnan(monitor.compute().accuracy).all()


@pytest.mark.parametrize(
    ("input", "target", "groups", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 1, 2]), torch.zeros(3).long(), "target: expected labels"),
        (
            torch.tensor([0.0, np.nan, 1.0]),
            torch.tensor([0, 1, 1]),
            torch.zeros(3).long(),
            "input: expected logits without",
        ),
        (torch.tensor([[np.inf, 0.0]]), torch.tensor([0]), torch.tensor([0]), "input: expected logits without"),
        (torch.zeros(3, 3), torch.tensor([0, 1, 1]), torch.zeros(3).long(), "input: expected logits of 2 classes"),
        (torch.zeros(3), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), "groups: expected ids"),
    ],
)
def test_what_cannot_be_counted_changes_nothing(input, target, groups, message):
    monitor = FairnessMonitor(2)
    with pytest.raises(ValueError, match=message):
        monitor.update(input, target, groups)
    assert monitor.counts.sum() == 0


@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
def test_areas_of_rare_and_of_confident_scores_are_scikit_learns(shift, rng):
    y = rng.integers(0, 2, 2000)
    z = rng.standard_normal(2000) + 1.5 * y + shift  # probabilities below 0.005, or above 0.99
    for logits in (z, np.stack([-z / 2, z / 2], axis=1)):
        monitor = FairnessMonitor(1)
        monitor.update(torch.from_numpy(logits), torch.from_numpy(y), torch.zeros(2000).long())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FairnessWarning)  # a class is never predicted
            assert monitor.compute().auc[0] == pytest.approx(roc_auc_score(y, z), abs=0.005)


def test_bool_labels_are_counted():
    monitor = FairnessMonitor(1)
    monitor.update(torch.tensor([2.0, 1.0, -1.0]), torch.tensor([True, False, False]), torch.zeros(3).long())
    assert monitor.compute().accuracy.tolist() == [2 / 3]


def trained(seed, penalty=None, weight=1.0):
    """A small network on the people of flchain, and a snapshot of it on those held out."""
    data = np.load(DATA)
    ids = torch.from_numpy(encode_groups(data["group"].tolist()).ids)
    x = torch.from_numpy(data["x"])
    x, y = (x - x.mean(0)) / x.std(0), torch.from_numpy(data["y"]).long()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    train, held = order[:5000], order[5000:]
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        rows = train[torch.randint(len(train), (512,))]
        logits = net(x[rows]).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits, y[rows].float())
        if penalty is not None:
            loss = loss + weight * penalty(logits, y[rows], ids[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monitor = FairnessMonitor(4)
    monitor.update(net(x[held]).detach(), y[held, None], ids[held])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairnessWarning)  # of a class that is never predicted; asked for below
        return monitor.compute()


@pytest.fixture(scope="module")
def plain():
    return trained(0)


def test_a_soft_gap_that_closes_alone_is_warned_of(plain):
    """Weight 1 on the soft accuracy gap: it closes by half and more, the gap of decisions does not."""
    found = " ".join(trained(0, MaxAccGapLoss(4)).warnings(plain))
    assert "soft accuracy gap has closed" in found
    assert "that of decisions has not" in found


def test_the_best_groups_fall_is_warned_of_with_its_share(plain):
    snapshot = trained(0, MaxAccGapLoss(4))
    best = int(np.argmax(plain.soft_accuracy))
    share = (plain.soft_accuracy - snapshot.soft_accuracy)[best] / (
        plain.gap("soft_accuracy") - snapshot.gap("soft_accuracy")
    )
    sentence = next(s for s in snapshot.warnings(plain) if "best group" in s and "accuracy" in s)
    assert f"{min(1.0, share):.0%} of the closing is its fall" in sentence


@pytest.mark.parametrize("penalty", [DemographicParityLoss, EqualizedOddsLoss])
def test_a_class_that_is_hardly_predicted_any_more_is_warned_of(penalty, plain):
    assert any(s.startswith("Class 1 is hardly predicted any more") for s in trained(0, penalty(4)).warnings(plain))


def test_a_fallen_auc_is_warned_of(plain):
    assert any(s.startswith("The AUC has fallen") for s in trained(0, MaxAccGapLoss(4)).warnings(plain))


def test_plain_runs_of_ten_seeds_are_silent(plain):
    for seed in range(1, 11):
        snapshot = trained(seed)
        assert snapshot.warnings(plain) == ()
        assert snapshot.warnings() == ()


def test_compute_warns_and_a_class_never_predicted_needs_no_reference():
    monitor = FairnessMonitor(1)
    monitor.update(torch.full((50,), -3.0), torch.arange(50) % 5 // 4, torch.zeros(50, dtype=torch.int64))
    with pytest.warns(FairnessWarning, match="Class 1 is never predicted, and 20% of the labels are 1"):
        monitor.compute()


def test_a_reference_of_other_groups_is_refused(plain):
    monitor = FairnessMonitor(2, reference=plain)
    monitor.update(torch.tensor([1.0, -1.0]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="reference: expected a snapshot"):
        monitor.compute()
    with pytest.raises(TypeError, match="reference: expected a Snapshot"):
        FairnessMonitor(2, reference={"accuracy": 0.8})
    assert isinstance(plain, Snapshot)
