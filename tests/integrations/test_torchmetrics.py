"""torchmetrics classes: equal to the NumPy reference however the data are split, in collections and across processes."""

import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

import fairloss.integrations.torchmetrics as ft
import fairloss.metrics as fm

pytestmark = pytest.mark.filterwarnings("ignore::fairloss.metrics.per_group.UndefinedGroupWarning")

G = 4
RATE_GAPS = {
    ft.MaxAccuracyGap: fm.max_accuracy_gap,
    ft.DemographicParityDifference: fm.demographic_parity_difference,
    ft.DemographicParityRatio: fm.demographic_parity_ratio,
    ft.EqualOpportunityDifference: fm.equal_opportunity_difference,
    ft.FalsePositiveRateDifference: fm.false_positive_rate_difference,
    ft.PredictiveParityDifference: fm.predictive_parity_difference,
    ft.EqualizedOddsDifference: fm.equalized_odds_difference,
}


def data(n=300, seed=0):
    """Scores with ties, labels and ids: -1 occurs, group 3 never does."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (n,), generator=generator)
    preds = (0.3 * target + 0.7 * torch.rand(n, generator=generator)).mul(50).round().div(50)
    return preds, target, torch.randint(-1, G - 1, (n,), generator=generator)


def run(metric, preds, target, groups, batch=37):
    for i in range(0, len(groups), batch):
        metric.update(preds[i : i + batch], target[i : i + batch], groups=groups[i : i + batch])
    return metric.compute()


def close(actual, expected):
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), np.float32(expected), rtol=1e-7)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.3}, {"threshold": 0.6, "strict": True}])
@pytest.mark.parametrize("kind", RATE_GAPS)
def test_rate_gaps(kind, options):
    preds, target, groups = data()
    close(run(kind(G, **options), preds, target, groups), RATE_GAPS[kind](target, preds, groups, **options))
    decisions = (preds >= 0.5).long()
    close(run(kind(G), decisions, target, groups), RATE_GAPS[kind](target, preds, groups))


@pytest.mark.parametrize("over_classes", ["mean_gap", "max_gap", "gap_of_mean"])
@pytest.mark.parametrize("kind", RATE_GAPS)
def test_several_classes_and_labels(kind, over_classes, generator):
    scores = torch.rand(400, 3, generator=generator)
    target, groups = torch.randint(0, 3, (400,), generator=generator), data(400)[2]
    options = {"num_classes": 3, "over_classes": over_classes}
    for preds in (scores, scores.argmax(dim=1)):
        found = run(kind(G, task="multiclass", **options), preds, target, groups)
        close(found, RATE_GAPS[kind](target, preds, groups, over_classes=over_classes, task="multiclass"))
    labels = torch.randint(0, 2, (400, 3), generator=generator)
    found = run(kind(G, task="multilabel", **options), scores, labels, groups)
    close(found, RATE_GAPS[kind](labels, scores, groups, over_classes=over_classes))
    found = run(kind(G, task="multiclass", num_classes=3, convention="fairgrpo"), scores, target, groups)
    close(found, RATE_GAPS[kind](target, scores, groups, convention="fairgrpo"))


@pytest.mark.parametrize("metric", ["accuracy", "tpr", "fdr", "f1"])
def test_group_values(metric):
    preds, target, groups = data()
    found = run(ft.GroupValues(G, metric=metric), preds, target, groups)
    close(found[: G - 1], fm.group_metric(metric, target, preds, groups).values)
    assert found[G - 1].isnan()  # a group without samples keeps its place


def test_scores():
    preds, target, groups = data()
    close(run(ft.AUCGap(G), preds, target, groups), fm.auc_gap(target, preds, groups))
    close(run(ft.EquityScaledAUC(G), preds, target, groups), fm.equity_scaled_auc(target, preds, groups))
    expected = fm.equity_scaled_auc(target, preds, groups, penalty="std", ddof=0)
    close(run(ft.EquityScaledAUC(G, penalty="std", ddof=0), preds, target, groups), expected)
    close(run(ft.CalibrationGap(G), preds, target, groups), fm.calibration_gap(target, preds, groups))
    close(
        run(ft.CalibrationGap(G, bins=7), preds, target, groups),
        fm.calibration_gap(target, preds, groups, score_bins=7),
    )
    # Histograms tie what falls into one bin.
    for bins in (5, 1000):
        tied = ((preds.double() * 50).round() * bins / 50).ceil().clamp(min=1)  # of whole numbers: closed on the right
        close(run(ft.AUCGap(G, bins=bins), preds, target, groups), fm.auc_gap(target, tied, groups))
        found = run(ft.EquityScaledAUC(G, bins=bins), preds, target, groups)
        close(found, fm.equity_scaled_auc(target, tied, groups))
    # Scores lie on the edges of bins: in every precision they stay on their side of them.
    tenths = (preds * 10).round() / 10
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        written = torch.tensor(tenths.tolist(), dtype=torch.float64).mul(10).round().div(10).to(kind)
        close(run(ft.CalibrationGap(G), written, target, groups), fm.calibration_gap(target, written, groups))
        found = run(ft.AUCGap(G, bins=10), written, target, groups)
        close(found, fm.auc_gap(target, (tenths * 10).round().clamp(min=1), groups))
    half = preds.bfloat16()
    close(run(ft.AUCGap(G), half, target, groups), fm.auc_gap(target, half, groups))


SCORES = {
    ft.AUCGap: fm.auc_gap,
    ft.EquityScaledAUC: fm.equity_scaled_auc,
    ft.CalibrationGap: fm.calibration_gap,
}


@pytest.mark.parametrize("kind", [*RATE_GAPS, *SCORES])
def test_forms_of_a_binary_task(kind):
    """Two columns, logits, another pair of labels and ignored samples give the number of scores beside 0 and 1."""
    preds, target, groups = data()
    preds = preds.double().clamp(0.01, 0.99)
    expected = ({**RATE_GAPS, **SCORES})[kind](target, preds, groups)
    columns = torch.stack([1 - preds, preds], dim=1)
    close(run(kind(G), columns, target, groups), expected)
    close(run(kind(G, logits=True), preds.logit(), target, groups), expected)
    close(run(kind(G, logits=True), columns.log() + 3, target, groups), expected)
    close(run(kind(G, positive=7), preds, 5 + 2 * target, groups), expected)
    more = [
        torch.cat([t, u])
        for t, u in ((preds, preds[:50].flip(0)), (target, torch.full((50,), -1)), (groups, groups[:50]))
    ]
    close(run(kind(G, ignore_index=-1), *more), expected)
    if kind in RATE_GAPS:
        labels = 5 + 2 * (preds >= 0.5).long()
        close(run(kind(G, positive=7), labels, 5 + 2 * target, groups), expected)
        close(
            run(kind(G, threshold=0.3), columns, target, groups), RATE_GAPS[kind](target, preds, groups, threshold=0.3)
        )


@pytest.mark.parametrize("kind", RATE_GAPS)
def test_masked_and_multilabel_logits(kind, generator):
    logits = torch.randn(400, 3, generator=generator)
    labels = torch.randint(0, 2, (400, 3), generator=generator).float()
    labels[torch.rand(400, 3, generator=generator) < 0.2] = float("nan")
    groups = data(400)[2]
    options = {"task": "multilabel", "num_classes": 3, "logits": True}
    expected = RATE_GAPS[kind](labels, logits, groups, logits=True)
    close(run(kind(G, **options), logits, labels, groups), expected)
    marked = labels.nan_to_num(-1).long()
    close(run(kind(G, ignore_index=-1, **options), logits, marked, groups), expected)
    target = torch.randint(-1, 3, (400,), generator=generator)
    found = run(kind(G, task="multiclass", num_classes=3, ignore_index=-1), logits, target, groups)
    close(found, RATE_GAPS[kind](target, logits, groups, ignore_index=-1))


@pytest.mark.parametrize(
    ("options", "preds", "target", "message"),
    [
        ({}, [[0.5, 0.6], [0.1, 0.2]], [0, 1], "preds: .*sum to 1.*logits=True"),
        ({}, [[2.0, 0.0], [0.0, 1.0]], [0, 1], "preds: .*sum to 1.*logits=True"),
        ({}, [0.2, 3.0], [0, 1], "preds: .*logits=True.*threshold="),
        ({"task": "multilabel", "num_classes": 2}, [[0.2, 3.0], [0.1, 0.2]], [[0, 1], [1, 1]], "preds: .*logits=True"),
        ({}, [0.2, 0.3], [-1, 1], "target: .*positive=.*ignore_index="),
        ({}, [0.2, 0.3], [0.0, 0.5], "target: expected labels 0 .. 1, got 0.0 .. 0.5, 0.5 among them"),
        ({}, [0.2, 0.3], [0.0, float("nan")], "target: .*nan among them"),
        ({"task": "multiclass", "num_classes": 3}, [0, 1], [0.0, 1.5], "target: .*1.5 among them"),
        ({"task": "multilabel", "num_classes": 1}, [[0.2], [0.3]], [[0.0], [0.75]], "target: .*0.75 among them"),
        ({"positive": 1}, [0.2, 0.3, 0.4], [0, 1, 2], "target: .*two labels"),
        ({"positive": 2}, [2, 3, 1], [1, 2, 2], "preds: .*two labels"),
        ({"positive": 2, "threshold": 0.3}, [2, 1], [1, 2], "threshold: .*labels"),
        ({"logits": True}, [0, 1], [0, 1], "logits: .*decisions"),
    ],
)
def test_batches_that_can_be_read_in_two_ways_are_refused(options, preds, target, message):
    metric = ft.MaxAccuracyGap(G, **options)
    with pytest.raises(ValueError, match=message):
        metric.update(torch.tensor(preds), torch.tensor(target), torch.zeros(len(target), dtype=torch.long))


@pytest.mark.parametrize("kind", [*RATE_GAPS, *SCORES])
def test_logits_that_look_like_probabilities_are_warned_of(kind):
    """Over all batches: one of a few logits may lie in [0, 1]."""
    preds, target, groups = data()
    metric = kind(G, logits=True)
    with pytest.warns(UserWarning, match="logits: .*all lie in"):
        run(metric, preds, target, groups)
    metric.update(torch.tensor([1.5]), target[:1], groups[:1])
    metric.compute()
    with pytest.raises(ValueError, match="logits: .*rows of preds that sum to 1"):
        metric.update(torch.stack([1 - preds, preds], dim=1), target, groups)


@pytest.mark.parametrize("kind", RATE_GAPS)
def test_a_threshold_that_no_probability_reaches_is_refused(kind):
    preds, target, groups = data()
    metric = kind(G, threshold=50)
    with pytest.raises(ValueError, match=r"threshold: .*in \[0, 1\], got 50"):
        run(metric, preds, target, groups)
    metric = kind(G, threshold=50)
    close(run(metric, 100 * preds.double(), target, groups), RATE_GAPS[kind](target, preds.double(), groups))


def test_the_other_label_is_the_same_in_every_batch():
    metric = ft.MaxAccuracyGap(G, positive=2)
    metric.update(torch.tensor([0.2, 0.7]), torch.tensor([1, 2]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="target: .*two labels.*1, 3"):
        metric.update(torch.tensor([0.2, 0.7]), torch.tensor([3, 2]), torch.tensor([0, 1]))


EVERY = [
    *(lambda k=k: k(G) for k in RATE_GAPS),
    lambda: ft.AUCGap(G),
    lambda: ft.AUCGap(G, bins=10),
    lambda: ft.CalibrationGap(G),
]


@pytest.mark.parametrize("make", EVERY)
def test_life_cycle(make):
    preds, target, groups = data()
    metric = make()
    expected = run(metric, preds, target, groups)
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.compute() == expected
    metric.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of compute before update
        assert metric.compute().isnan()
    assert run(metric, preds, target, groups, batch=300) == expected
    assert run(make(), *(t.flip(0) for t in (preds, target, groups)), batch=11) == pytest.approx(
        expected.item(), abs=1e-7
    )
    one = make()
    one.update(preds[:, None], target[:, None], groups)
    assert one.compute() == expected
    assert metric.forward(preds, target, groups=groups) == expected
    assert make().to("cpu").dist_sync_on_step is False
    assert type(metric)(G, sync_on_compute=False).sync_on_compute is False


def test_in_a_collection():
    preds, target, groups = data()
    collection = MetricCollection(
        {
            "accuracy": ft.MaxAccuracyGap(G),
            "odds": ft.EqualizedOddsDifference(G),
            "low": ft.EqualOpportunityDifference(G, threshold=0.1),
            "high": ft.EqualOpportunityDifference(G, threshold=0.9),
            "strict": ft.DemographicParityDifference(G, threshold=0.5, strict=True),
            "auc": ft.AUCGap(G),
            "histogram": ft.AUCGap(G, bins=10),
            "ece": ft.CalibrationGap(G),
            "ece5": ft.CalibrationGap(G, bins=5),
        }
    )
    # A first batch on which all thresholds agree must not merge what later batches tell apart.
    collection.update(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), groups=torch.tensor([0, 1]))
    found = run(collection, preds, target, groups)
    preds, target, groups = (
        torch.cat(pair)
        for pair in ((torch.tensor([1.0, 0.0]), preds), (torch.tensor([1, 0]), target), (torch.tensor([0, 1]), groups))
    )
    tied = ((preds.double() * 50).round() / 5).ceil().clamp(min=1)
    expected = {
        "accuracy": fm.max_accuracy_gap(target, preds, groups),
        "odds": fm.equalized_odds_difference(target, preds, groups),
        "low": fm.equal_opportunity_difference(target, preds, groups, threshold=0.1),
        "high": fm.equal_opportunity_difference(target, preds, groups, threshold=0.9),
        "strict": fm.demographic_parity_difference(target, preds, groups, strict=True),
        "auc": fm.auc_gap(target, preds, groups),
        "histogram": fm.auc_gap(target, tied, groups),
        "ece": fm.calibration_gap(target, preds, groups),
        "ece5": fm.calibration_gap(target, preds, groups, score_bins=5),
    }
    for name, value in expected.items():
        close(found[name], value)
    together = {frozenset(names) for names in collection.compute_groups.values()}
    assert frozenset({"accuracy", "odds"}) in together  # the same counts are kept once
    assert len(together) == 8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.update(torch.ones(2), torch.ones(2), torch.tensor([0, 4])), ValueError, r"groups: .*\b4\b"),
        (lambda m: m.update(torch.ones(2), torch.ones(2), torch.tensor([0, -2])), ValueError, "groups: .*-2"),
        (
            lambda m: m.update(torch.ones(2), torch.tensor([0, 2]), torch.tensor([0, 1])),
            ValueError,
            r"target: .*0 \.\. 2",
        ),
        (
            lambda m: m.update(torch.ones(2), torch.ones(2), torch.tensor([0.0, 1.0])),
            TypeError,
            "groups: .*float32",
        ),
        (lambda m: m.update(torch.ones(3), torch.ones(2), torch.tensor([0, 1])), ValueError, "preds, target, groups"),
        (
            lambda m: m.update(torch.ones(2), torch.ones(2), torch.zeros(2, 2).long()),
            ValueError,
            "preds, target, groups",
        ),
    ],
)
def test_wrong_batches_are_refused_before_the_state_changes(call, error, message):
    for make in EVERY:
        metric = make()
        metric.update(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]), torch.tensor([0, 1]))
        before = pickle.dumps([getattr(metric, name) for name in metric._defaults])
        with pytest.raises(error, match=message):
            call(metric)
        assert pickle.dumps([getattr(metric, name) for name in metric._defaults]) == before


def test_wrong_arguments():
    for make, message in [
        (lambda: ft.MaxAccuracyGap(0), "num_groups: .*0"),
        (lambda: ft.MaxAccuracyGap(2, task="tokens"), "task: .*'tokens'"),
        (lambda: ft.MaxAccuracyGap(2, task="multiclass"), "num_classes: .*None"),
        (lambda: ft.MaxAccuracyGap(2, num_classes=3), "num_classes: .*3"),
        (lambda: ft.MaxAccuracyGap(2, task="multiclass", num_classes=3, positive=1), "positive: .*1"),
        (lambda: ft.MaxAccuracyGap(2, task="multiclass", num_classes=3, threshold=0.3), "threshold: .*0.3"),
        (lambda: ft.EqualizedOddsDifference(2, agg="sum"), "agg: .*'sum'"),
        (lambda: ft.GroupValues(2, metric="auc"), "metric: .*'auc'"),
        (lambda: ft.AUCGap(2, bins=1), "bins: .*1"),
        (lambda: ft.CalibrationGap(2, bins=0), "bins: .*0"),
        (lambda: ft.EquityScaledAUC(2, penalty="std"), "ddof: .*None"),
        (lambda: run(ft.CalibrationGap(2), torch.tensor([1.5]), torch.tensor([1]), torch.tensor([0])), "probabilities"),
        (lambda: run(ft.AUCGap(2, bins=5), torch.tensor([1.5]), torch.tensor([1]), torch.tensor([0])), "probabilities"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def worker(rank, path, out):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    preds, target, groups = data()
    # Unequal shares; group 0 is seen by the first rank alone.
    mine = (torch.arange(300) < 180) | (groups == 0)
    mine = mine if rank == 0 else ~mine
    collection = MetricCollection({str(i): make() for i, make in enumerate(EVERY)})
    values = run(collection, preds[mine], target[mine], groups[mine], batch=23)
    torch.save(dict(values), f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, args=(tmp_path / "rendezvous", tmp_path / "values"), nprocs=2)
    preds, target, groups = data()
    for rank in range(2):
        values = torch.load(f"{tmp_path / 'values'}.{rank}")
        for i, make in enumerate(EVERY):
            assert values[str(i)] == pytest.approx(run(make(), preds, target, groups).item(), abs=1e-7), make


@pytest.mark.parametrize("name", ["MaxAccuracyGap", "AUCGap", "DemographicParityDifference"])
def test_scores_that_are_no_numbers_are_refused(name):
    pytest.importorskip("torchmetrics", reason="fairloss[torchmetrics]")
    import fairloss.integrations.torchmetrics as tm

    metric = getattr(tm, name)(2)
    with pytest.raises(ValueError, match="preds: .*NaN"):
        metric.update(torch.tensor([float("nan"), 0.2]), torch.tensor([0, 1]), torch.tensor([0, 1]))


@pytest.mark.filterwarnings("error::fairloss.metrics.per_group.UndefinedGroupWarning")
def test_what_a_value_leaves_out_is_named():
    """A class that one group lacks is no gap, and named; a group without samples is not."""
    y, g = torch.tensor([0, 1] * 10 + [0, 1, 2, 2] * 5), torch.tensor([0] * 20 + [1] * 20)
    p = torch.where(y == 2, 0, y)
    expected = r"tpr is undefined in group\(s\) 0 \(class 2\): left out"
    gap = ft.EqualOpportunityDifference(3, task="multiclass", num_classes=3)
    values = ft.GroupValues(3, metric="tpr", task="multiclass", num_classes=3)
    for metric in (gap, values):
        metric.update(p, y, g)
    with pytest.warns(fm.UndefinedGroupWarning, match=expected):
        assert gap.compute() == 0
    with pytest.warns(fm.UndefinedGroupWarning, match=expected):
        found = values.compute()
    np.testing.assert_allclose(found.numpy(), [1, 2 / 3, np.nan], rtol=1e-6)
    # FairGRPO's convention drops classes on purpose.
    ft.MaxAccuracyGap(3, task="multiclass", num_classes=3, convention="fairgrpo")(p, y, g)
    for metric in (ft.AUCGap(3), ft.AUCGap(3, bins=5), ft.EquityScaledAUC(3)):
        metric.update(torch.linspace(0, 1, 40), (y > 0).long() * g, g)
        with pytest.warns(fm.UndefinedGroupWarning, match=r"auc is undefined in group\(s\) 0: left out"):
            metric.compute()
