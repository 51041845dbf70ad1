"""The adversary on a toy set, the reversed gradient, a scale that changes from step to step."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fairloss import AdversarialGroupLoss, GradientReversal
from fairloss.functional import gradient_reversal


def test_the_gradient_is_reversed_and_the_value_is_not():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(gradient_reversal(x, scale=0.3), x)
    (grad,) = torch.autograd.grad((gradient_reversal(x, scale=0.3) ** 2).sum(), x)
    torch.testing.assert_close(grad, -0.6 * x.detach())
    assert (torch.autograd.grad(GradientReversal(0.0)(x).sum(), x)[0] == 0).all()


def test_the_adversary_itself_descends():
    loss = AdversarialGroupLoss(2, embedding_dim=3, hidden_dims=())
    z, ids = torch.randn(50, 3, requires_grad=True), torch.arange(50) % 2
    value = loss(z, ids)
    value.backward()
    with torch.no_grad():
        for layer in loss.layers:
            layer.weight -= 0.1 * layer.weight.grad
        assert loss(z, ids) < value
        z -= 5 * z.grad
        assert loss(z, ids) > value


def probe(z, ids):
    """Training accuracy of a fresh logistic regression, the leakage that is left."""
    z, ids = z.detach().double().numpy(), ids.numpy()
    return LogisticRegression(max_iter=1000).fit(z, ids).score(z, ids)


def toy():
    """The label is in the first column, the group in the next two; a probe of the columns finds it in 19 of 20 samples."""
    generator = torch.Generator().manual_seed(0)
    y, ids = torch.randint(0, 2, (600,), generator=generator), torch.randint(0, 2, (600,), generator=generator)
    x = torch.randn(600, 6, generator=generator)
    x[:, 0] += 2 * (2 * y - 1)
    x[:, 1] += 1.5 * (2 * ids - 1)
    x[:, 2] += 0.7 * (2 * ids - 1)
    return x, y, ids


def train(x, y, ids, scale, **options):
    torch.manual_seed(1)
    encoder, head = torch.nn.Linear(6, 4), torch.nn.Linear(4, 2)
    adversary = AdversarialGroupLoss(2, embedding_dim=4, scale=scale, hidden_dims=(16,), **options)
    target = {"target": y} if "num_classes" in options else {}
    optimiser = torch.optim.Adam(
        [
            {"params": [*encoder.parameters(), *head.parameters()], "lr": 0.01},
            {"params": adversary.parameters(), "lr": 0.03},
        ]
    )
    for _ in range(400):
        optimiser.zero_grad()
        z = encoder(x)
        (torch.nn.functional.cross_entropy(head(z), y) + adversary(z, ids, **target)).backward()
        optimiser.step()
    with torch.no_grad():
        z = encoder(x)
        return probe(z, ids), (head(z).argmax(1) == y).double().mean().item()


@pytest.mark.parametrize("options", [{}, {"num_classes": 2}], ids=str)
def test_a_probe_finds_the_group_no_more(options):
    x, y, ids = toy()
    leak_before, accuracy_before = train(x, y, ids, 0.0, **options)
    leak_after, accuracy_after = train(x, y, ids, 1.0, **options)
    assert leak_before > 0.85
    assert leak_after < 0.65
    assert accuracy_after > accuracy_before - 0.02


def test_a_changing_scale_does_not_compile_again():
    torch._dynamo.reset()
    layer = GradientReversal()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for step, scale in enumerate((0.0, 0.1, 0.2, 0.3, 0.4)):
        layer.scale = scale
        torch._dynamo.config.error_on_recompile = step >= 2
        try:
            x = torch.ones(3, requires_grad=True)
            compiled(x).sum().backward()
        finally:
            torch._dynamo.config.error_on_recompile = False
        torch.testing.assert_close(x.grad, torch.full((3,), -scale))


def test_errors_name_the_argument():
    loss = AdversarialGroupLoss(2, embedding_dim=3)
    z, ids = torch.randn(4, 3), torch.tensor([0, 1, 0, -1])
    for bad, named in [
        ((z[:, :2], ids), r"embeddings: .*\b2\b"),
        ((z, ids + 1), r"groups: .*\b2\b"),
    ]:
        with pytest.raises(ValueError, match=named):
            loss(*bad)
    with pytest.raises(ValueError, match="target: .*num_classes"):
        loss(z, ids, target=ids)
    with pytest.raises(ValueError, match="target: "):
        AdversarialGroupLoss(2, embedding_dim=3, num_classes=2)(z, ids)
    with pytest.raises(ValueError, match=r"target: .*\b2\b"):
        AdversarialGroupLoss(2, embedding_dim=3, num_classes=2)(z, ids, target=torch.tensor([0, 1, 2, 0]))
    for arguments in (
        {"scale": -1},
        {"criterion": "l2"},
        {"hidden_dims": (0,)},
        {"num_classes": 0},
        {"attribute_reduction": "x"},
    ):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            AdversarialGroupLoss(2, embedding_dim=3, **arguments)
    with pytest.raises(TypeError, match="x: .*tensor"):
        gradient_reversal([1.0])
