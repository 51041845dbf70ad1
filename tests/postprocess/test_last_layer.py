"""The last layer against scikit-learn's balanced logistic regression; ensembles against means by hand."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fairloss.postprocess import Ensemble, retrain_last_layer


def embedded(rng, per_cell, classes=2):
    y, g = (part.ravel() for part in np.meshgrid(np.arange(classes), np.arange(2)))
    y, g = np.repeat(y, per_cell), np.repeat(g, per_cell)
    return rng.standard_normal((len(y), 5)) * 3 + y[:, None] + np.eye(5)[g] + 7, y, g


@pytest.mark.parametrize("classes", [2, 3])
def test_balanced_data_give_scikit_learns_logistic_regression(classes, rng):
    x, y, g = embedded(rng, 60, classes)
    layer = retrain_last_layer(x, y, g, strengths=(0.1,), subsamples=1)
    scaler = StandardScaler().fit(x)
    oracle = LogisticRegression(C=0.1, max_iter=5000).fit(scaler.transform(x), y)
    expected = oracle.decision_function(scaler.transform(x)).reshape(len(x), -1)
    np.testing.assert_allclose(layer(torch.tensor(x, dtype=torch.float32)).detach().numpy(), expected, atol=1e-4)
    assert layer.out_features == (1 if classes == 2 else classes)


def test_two_outputs_have_the_logit_as_their_difference(rng):
    x, y, g = embedded(rng, 40)
    one, two = (retrain_last_layer(x, y, g, num_outputs=k) for k in (1, 2))
    z = torch.tensor(x, dtype=torch.float32)
    torch.testing.assert_close(two(z)[:, 1] - two(z)[:, 0], one(z)[:, 0], rtol=1e-4, atol=1e-4)


def test_a_shortcut_that_holds_for_most_is_unlearnt(rng):
    """A feature that is the label in the large groups and its opposite in the small ones."""
    y, g = rng.integers(0, 2, 4000), (rng.random(4000) < 0.05).astype(int)
    shortcut = np.where(g == 0, y, 1 - y)
    x = np.stack([y + 0.6 * rng.standard_normal(4000), 3 * shortcut + 0.3 * rng.standard_normal(4000)], axis=1)
    plain = LogisticRegression(C=1.0).fit(x, y)
    layer = retrain_last_layer(x, y, g)
    guess = layer(torch.tensor(x, dtype=torch.float32)).detach().numpy()[:, 0] > 0
    assert (plain.predict(x)[g == 1] == y[g == 1]).mean() < 0.3
    assert (guess[g == 1] == y[g == 1]).mean() > 0.7
    assert (guess[g == 0] == y[g == 0]).mean() > 0.7


def test_samples_of_unknown_group_are_left_out(rng):
    x, y, g = embedded(rng, 40)
    g = np.concatenate([g, np.full(50, -1)])
    more = np.concatenate([x, rng.standard_normal((50, 5)) * 100])
    one = retrain_last_layer(more, np.concatenate([y, rng.integers(0, 2, 50)]), g)
    two = retrain_last_layer(x, y, g[:-50])
    torch.testing.assert_close(one.weight, two.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strengths": []}, "strengths: expected a sequence"),
        ({"strengths": 1.0}, "strengths: expected a sequence"),
        ({"y": np.zeros(160, dtype=int)}, r"y: expected labels 0 \.\. C - 1"),
        ({"embeddings": np.zeros(160)}, r"embeddings: expected \(N, D\)"),
        ({"groups": np.r_[[5], np.zeros(159, dtype=int)]}, "groups: expected at least two samples"),
        ({"num_outputs": 3}, "num_outputs: expected"),
        ({"strengths": (0.0,)}, "strengths: expected"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(change, message, rng):
    x, y, g = embedded(rng, 40)
    with pytest.raises(ValueError, match=message):
        retrain_last_layer(**({"embeddings": x, "y": y, "groups": g} | change))


class Fixed(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits


def test_ensembles_average_logits_probabilities_or_votes():
    members = [Fixed([2.0, -1.0]), Fixed([0.0, -3.0]), Fixed([-1.0, 5.0])]
    x = torch.zeros(2)
    torch.testing.assert_close(Ensemble(members)(x), torch.tensor([1 / 3, 1 / 3]))
    p = [[1 / (1 + np.exp(-v)) for v in m.logits.tolist()] for m in members]
    torch.testing.assert_close(Ensemble(members, average="probability")(x), torch.tensor(np.mean(p, axis=0)).float())
    torch.testing.assert_close(Ensemble(members, average="vote")(x), torch.tensor([2 / 3, 1 / 3]))


def test_ensembles_of_several_classes_use_the_softmax_and_the_largest_logit():
    members = [Fixed([[2.0, -1.0, 0.0]]), Fixed([[0.0, 3.0, 0.0]])]
    x = torch.zeros(1)
    p = [np.exp(v) / np.exp(v).sum() for v in ([2.0, -1.0, 0.0], [0.0, 3.0, 0.0])]
    torch.testing.assert_close(Ensemble(members, average="probability")(x)[0], torch.tensor(np.mean(p, axis=0)).float())
    torch.testing.assert_close(Ensemble(members, average="vote")(x)[0], torch.tensor([0.5, 0.5, 0.0]))
    many = Ensemble(members, average="vote", multilabel=True)(x)[0]
    torch.testing.assert_close(many, torch.tensor([1.0, 0.5, 1.0]))


def test_an_ensemble_is_saved_and_moved_as_one_module(tmp_path):
    ensemble = Ensemble([torch.nn.Linear(3, 1) for _ in range(2)])
    torch.save(ensemble.state_dict(), tmp_path / "ensemble.pt")
    other = Ensemble([torch.nn.Linear(3, 1) for _ in range(2)])
    other.load_state_dict(torch.load(tmp_path / "ensemble.pt"))
    x = torch.randn(4, 3)
    torch.testing.assert_close(other(x), ensemble(x))
    assert ensemble.double()(x.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="members: expected at least one module"):
        Ensemble([])
