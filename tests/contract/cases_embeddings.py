"""Contract cases of the losses on embeddings."""

from __future__ import annotations

import torch

import fairloss
from fairloss import functional as ff
from tests.contract.case import Case, groups_of
from tests.oracles import embeddings as oracles


def embeddings(generator, n, dtype):
    return {
        "embeddings": torch.randn(n, 5, generator=generator).to(dtype),
        "target": torch.randint(0, 3, (n,), generator=generator),
        "groups": groups_of(generator, n),
    }


def two_attributes(generator, n, dtype):
    batch = embeddings(generator, n, dtype)
    return {**batch, "groups": torch.stack([groups_of(generator, n), groups_of(generator, n, 2)], 1)}


def queue_with_rows(attributes):
    """A queue with a few rows of its own, so that the first batch already meets them."""
    queue = fairloss.EmbeddingQueue(12, dim=5, num_attributes=attributes)
    with torch.device("cpu"):  # also where the module is made on another
        generator = torch.Generator().manual_seed(1)
        ids = torch.stack([torch.randint(0, 2, (7,), generator=generator) for _ in range(attributes)], 1)
        queue.push(torch.randn(7, 5, generator=generator), torch.randint(0, 3, (7,), generator=generator), ids)
    return queue


def contrastive_case(name, *, attributes=1, queue=False, notes="", **options):
    def sizes(g):
        return g if attributes == 1 else (g, 2)

    def make(num_groups=3, process_group=None):
        own = queue_with_rows(attributes) if queue else None
        return fairloss.CrossGroupContrastiveLoss(
            memory=own, num_groups=sizes(num_groups), process_group=process_group, **options
        )

    def function(num_groups=3, **batch):
        own = queue_with_rows(attributes) if queue else None
        return ff.cross_group_contrastive(**batch, memory=own, num_groups=sizes(num_groups), **options)

    held = queue_with_rows(attributes) if queue else None
    rows = []
    if held is not None:
        rows = list(zip(held.embeddings.double(), held.labels.tolist(), held.groups.tolist(), strict=True))[:7]

    def oracle(embeddings, target, groups):
        z, y, ids = (torch.as_tensor(x) for x in (embeddings, target, groups))
        known = {k: v for k, v in options.items() if k in ("temperature", "margin")}
        return float(oracles.contrastive(z, y, ids, queue=rows, paper=options.get("variant") == "paper", **known))

    return Case(
        f"cross_group_contrastive-{name}",
        make,
        embeddings if attributes == 1 else two_attributes,
        oracle,
        function,
        differentiable=("embeddings",),
        # With a queue there are other groups outside the batch, and its rows keep their group names.
        zero_without_two_groups=not queue,
        relabel=not queue and attributes == 1,
        notes=notes,
    )


def moments_case(name, *, attributes=1, **options):
    def sizes(g):
        return g if attributes == 1 else (g, 2)

    def make(num_groups=3, process_group=None):
        return fairloss.MomentAlignmentLoss(sizes(num_groups), num_classes=3, process_group=process_group, **options)

    def function(num_groups=3, **batch):
        return ff.moment_alignment(**batch, num_classes=3, num_groups=sizes(num_groups), **options)

    def oracle(embeddings, target, groups):
        known = {k: v for k, v in options.items() if k != "form"}
        z, y, ids = (torch.as_tensor(x) for x in (embeddings, target, groups))
        return float(oracles.moments(z, y, ids, num_groups=[0] * attributes, **known))

    draw = embeddings if attributes == 1 else two_attributes
    return Case(
        f"moment_alignment-{name}", make, draw, oracle, function, ("embeddings",), relabel=attributes == 1, huge=1e8
    )


def adversarial_case(name, *, attributes=1, **options):
    def sizes(g):
        return (g,) if attributes == 1 else (g, 2)

    def make(num_groups=3, process_group=None):
        with torch.random.fork_rng():
            torch.manual_seed(num_groups)
            return fairloss.AdversarialGroupLoss(
                sizes(num_groups), embedding_dim=5, hidden_dims=(4,), scale=0.7, process_group=process_group, **options
            )

    def draw(generator, n, dtype):
        batch = (embeddings if attributes == 1 else two_attributes)(generator, n, dtype)
        if "num_classes" not in options:
            del batch["target"]
        return batch

    def value(z, groups, target=None):
        layers = [(layer.weight.detach().double(), layer.bias.detach().double()) for layer in make().layers]
        labels = None if target is None else target.tolist()
        criterion = options.get("criterion", "cross_entropy")
        classes = options.get("num_classes", 0)
        return oracles.adversary(z, groups, labels, layers, sizes(3), criterion=criterion, classes=classes)

    def oracle(embeddings, **others):
        return float(value(torch.as_tensor(embeddings), **{k: torch.as_tensor(v) for k, v in others.items()}))

    def oracle_gradient(embeddings, **others):
        z = torch.tensor(embeddings, requires_grad=True)
        loss = value(z, **{k: torch.as_tensor(v) for k, v in others.items()})
        return -0.7 * torch.autograd.grad(loss, z)[0].numpy()

    return Case(
        f"adversarial_group-{name}",
        make,
        draw,
        oracle,
        None,
        ("embeddings",),
        oracle_gradient,
        # One group alone is still something to learn for the adversary, whose weights name the groups.
        zero_without_two_groups=False,
        relabel=False,
        notes="an unused id adds an output to the adversary",
    )


CASES = [
    contrastive_case("default"),
    contrastive_case("paper", variant="paper"),
    contrastive_case("all_negatives", temperature=0.5, margin=-2.0),
    contrastive_case("two_attributes", attributes=2),
    contrastive_case("queue", queue=True, notes="prefilled"),
    contrastive_case("queue_two_attributes", queue=True, attributes=2, temperature=0.3, notes="prefilled"),
    moments_case("gram", form="gram"),
    moments_case("explicit", form="explicit"),
    moments_case("two_attributes", attributes=2, cov_weight=0.5),
    moments_case("paper", attributes=2, variant="paper", form="gram"),
    moments_case("unit_rows", normalize=True, attribute_reduction="max", form="gram"),
    adversarial_case("default"),
    adversarial_case("laftr", criterion="laftr"),
    adversarial_case("within_labels", num_classes=3, criterion="laftr"),
    adversarial_case("two_attributes", attributes=2, num_classes=3),
]
