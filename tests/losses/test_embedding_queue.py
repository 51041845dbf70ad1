"""The queue of embeddings: what it holds, when it moves, how it resumes."""

from __future__ import annotations

import pytest
import torch

import fairloss
from fairloss import CrossGroupContrastiveLoss, EmbeddingQueue
from tests.losses.embedded import draw
from tests.oracles.embeddings import unit

IDS = torch.tensor([0, 1])


def test_a_queue_checks_labels_and_takes_one_column():
    queue = fairloss.EmbeddingQueue(2, dim=1)
    with pytest.raises((TypeError, ValueError), match="labels"):
        queue.push(torch.ones(2, 1), torch.tensor([0.5, 1.0]), IDS)
    assert int(queue.seen) == 0
    queue.push(torch.ones(2, 1, requires_grad=True), IDS, IDS)
    assert not queue.embeddings.requires_grad


def test_a_queue_shows_its_size():
    assert repr(fairloss.EmbeddingQueue(8, dim=3)) == "EmbeddingQueue(capacity=8, dim=3, num_attributes=1)"


def test_a_queue_resumes_where_it_was():
    """pytorch-metric-learning's memory loses its place: after a reload it starts from row 0."""
    queue = fairloss.EmbeddingQueue(4, dim=2)
    queue.push(torch.eye(2).repeat(3, 1), torch.arange(6), torch.zeros(6, dtype=torch.int64))
    other = fairloss.EmbeddingQueue(4, dim=2)
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(torch.ones(1, 2), torch.tensor([9]), torch.tensor([1]))
    for each in (queue, other):
        assert each.rows(ignore_index=-100)[1].tolist() == [9, 3, 4, 5]


def test_queue_holds_the_last_rows(generator):
    queue, rows, kept = EmbeddingQueue(7, dim=3, num_attributes=2), [], 0
    for n in (3, 0, 5, 20, 1, 7, 2):
        z = torch.randn(n, 3, generator=generator)
        y, ids = torch.randint(-3, 4, (n,), generator=generator), torch.randint(-1, 3, (n, 2), generator=generator)
        queue.push(z, y, ids)
        rows += [(unit(z[i].double()), int(y[i]), ids[i].tolist()) for i in range(n)]
        kept += min(n, 7)
        assert int(queue.seen) == kept
        embeddings, labels, groups = queue.rows(ignore_index=-100)
        for age, (row, label, group) in enumerate(reversed(rows[-7:])):
            place = (kept - 1 - age) % 7
            torch.testing.assert_close(embeddings[place].double(), row, rtol=1e-6, atol=1e-7)
            assert int(labels[place]) == label
            assert groups[place].tolist() == group
        assert (labels[len(rows) :] == -100).all()


def test_queue_moves_in_training_with_gradients_alone():
    queue = EmbeddingQueue(8, dim=5)
    loss = CrossGroupContrastiveLoss(memory=queue)
    z, y, ids = draw(6)
    loss.eval()(z, y, ids)
    assert queue.seen == 0
    with torch.no_grad():
        loss.train()(z, y, ids)
    assert queue.seen == 0
    loss(z, y, ids)
    assert queue.seen == 6
    before = queue.get_extra_state()
    with pytest.raises(ValueError, match="groups: .*-3"):
        loss(z, y, ids.clamp(max=0) - 2)
    assert torch.equal(queue.get_extra_state(), before)
    other = EmbeddingQueue(8, dim=5)
    other.load_state_dict(queue.state_dict())
    queue.push(z, y, ids)
    other.push(z, y, ids)
    assert torch.equal(other.get_extra_state(), queue.get_extra_state())
    assert other.bfloat16().embeddings.dtype == torch.float32
