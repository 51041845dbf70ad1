"""Dice and IoU of masks."""

from __future__ import annotations

import numpy as np
import pytest

import fairloss.metrics as fm


def test_overlap_of_no_sample():
    assert fm.dice(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)
    assert fm.iou(np.zeros((0, 3), int), np.zeros((0, 3), int), num_classes=2).shape == (0, 2)


def test_masks_of_whole_floating_numbers_are_masks():
    true, pred = np.array([[0, 1, 1, 0]]), np.array([[0, 1, 0, 0]])
    expected = fm.dice(true, pred)
    assert np.array_equal(fm.dice(true.astype(float), pred.astype(float)), expected)
    with pytest.raises(ValueError, match="y_pred: .*whole numbers"):
        fm.dice(true, pred + 0.5)


def one_hot(labels, classes):
    return np.moveaxis(np.eye(classes, dtype=int)[labels], -1, 1)


@pytest.mark.parametrize("kind", [int, bool, float, np.uint8])
@pytest.mark.parametrize("shape", [(16, 16), (3, 8, 8)])
@pytest.mark.parametrize("classes", [2, 4])
def test_one_hot_masks_are_those_of_the_label_map(kind, shape, classes, rng):
    """The background was pooled with the foreground."""
    true, pred = (rng.integers(0, classes, (5, *shape)) for _ in range(2))
    for function in (fm.dice, fm.iou):
        expected = function(true, pred, num_classes=classes)
        masks = [one_hot(m, classes).astype(kind) for m in (true, pred)]
        for options in ({}, {"num_classes": classes}, {"channels": True}):
            assert np.array_equal(function(*masks, **options), expected)
            assert np.array_equal(function(*masks, include_background=False, **options), expected[:, 1:])
        assert function(*masks, channels=False).shape == (5,)


def test_the_foreground_of_a_one_hot_mask():
    true, pred = (np.zeros((1, 32, 32), dtype=int) for _ in range(2))
    true[0, :4, :4], pred[0, 2:6, 2:6] = 1, 1  # 4 of 16 pixels in common
    value = fm.dice(one_hot(true, 2), one_hot(pred, 2), include_background=False)
    assert value.tolist() == [[0.25]] == fm.dice(true, pred)[:, None].tolist()
    both = np.stack([one_hot(true, 2)[0], one_hot(0 * true, 2)[0]]), np.stack([one_hot(pred, 2)[0]] * 2)
    empty = fm.dice(both[0], 0 * both[1], include_background=False, channels=True)[:, 0]
    assert np.array_equal(empty, [0.0, np.nan], equal_nan=True)
    found = fm.group_mean(empty, ["a", "a"])
    assert (found.values.tolist(), found.counts.tolist()) == ([0.0], [1])


def test_regions_that_overlap_are_told_of():
    whole = np.zeros((2, 3, 8, 8), dtype=int)
    whole[:, 0, :6], whole[:, 1, :4], whole[:, 2, :2] = 1, 1, 1
    pred = np.roll(whole, 1, axis=2)
    expected = np.stack([fm.dice(whole[:, k], pred[:, k]) for k in range(3)], axis=1)
    assert np.array_equal(fm.dice(whole, pred, channels=True), expected)
    for masks in ((whole, pred), (0 * whole, pred > 0), (whole.astype(float), pred)):
        for options in ({}, {"num_classes": 3}):
            with pytest.raises(
                ValueError, match=r"channels: .*overlap, or in slices of a volume; pass channels=True or"
            ):
                fm.iou(*masks, **options)
    assert fm.dice(whole, pred, channels=False).shape == (2,)  # a volume
    assert fm.dice(whole, pred, num_classes=2).shape == (2, 2)  # a label map of one
    one = whole[:, :1], pred[:, :1]
    assert np.array_equal(fm.dice(*one), fm.dice(*(m[:, 0] for m in one)))


def test_masks_of_two_readings_are_refused():
    line = np.eye(4, dtype=int)[None]  # a line through an image, or four classes of four pixels
    with pytest.raises(ValueError, match="channels: .*channels=True or channels=False"):
        fm.dice(line, line)
    assert fm.dice(line, line, channels=True).tolist() == [[1.0] * 4]
    assert fm.dice(line, line, channels=False).tolist() == [1.0]
    assert fm.dice(line, line, num_classes=2).tolist() == [[1.0, 1.0]]
    with pytest.raises(ValueError, match="channels: .*channels=True or channels=False"):
        fm.dice(one_hot(line, 2), one_hot(line, 2), num_classes=3)
    with pytest.raises(ValueError, match="y_true: .*3 classes in axis 1"):
        fm.dice(one_hot(line, 2), one_hot(line, 2), num_classes=3, channels=True)
    with pytest.raises(ValueError, match="y_true: .*axis 1"):
        fm.dice([[1, 0]], [[1, 0]], channels=True)


@pytest.mark.parametrize("ignore", [255, -1])
def test_ignored_pixels_count_for_nothing(ignore, rng):
    true, pred = (rng.integers(0, 3, (4, 40)) for _ in range(2))
    kept = np.arange(40) % 4 > 0
    marked = np.where(kept, true, ignore)
    for function in (fm.dice, fm.iou):
        expected = function(true[:, kept], pred[:, kept], num_classes=3)
        assert np.array_equal(function(marked, pred, num_classes=3, ignore_index=ignore), expected)
        masked = np.where(kept, pred, ignore)  # some write it into the predictions, too
        assert np.array_equal(function(marked, masked, num_classes=3, ignore_index=ignore), expected)
        columns = [np.where(kept, one_hot(true, 3), ignore)[..., None], one_hot(pred, 3)[..., None]]
        assert np.array_equal(function(*columns, ignore_index=ignore), expected)
        binary = function((true[:, kept] > 0).astype(int), (pred[:, kept] > 0).astype(int))
        marked_binary = np.where(kept, true > 0, ignore)
        assert np.array_equal(function(marked_binary, pred > 0, ignore_index=ignore), binary)
    with pytest.raises(ValueError, match="y_true: .*whole numbers"):
        fm.dice(marked, pred, num_classes=3)


def test_dice_and_iou():
    true = np.zeros((3, 2, 4), dtype=int)
    pred = np.zeros((3, 2, 4), dtype=int)
    true[0, 0], pred[0, 0, :2] = 1, 1
    true[1], pred[1] = 1, 1
    assert fm.dice(true, pred)[:2].tolist() == [pytest.approx(2 * 2 / 6), 1.0]
    assert fm.iou(true, pred)[:2].tolist() == [0.5, 1.0]
    assert np.isnan(fm.dice(true, pred)[2])
    assert fm.iou(true, pred, empty=1.0)[2] == 1.0
    labels_true, labels_pred = np.array([[0, 1, 2, 2]]), np.array([[0, 1, 1, 2]])
    assert fm.dice(labels_true, labels_pred, num_classes=3)[0] == pytest.approx([1, 2 / 3, 2 / 3])
    assert fm.iou(labels_true, labels_pred, num_classes=3, include_background=False)[0] == pytest.approx([0.5, 0.5])
    assert fm.group_mean(fm.dice(true, pred), [0, 1, 1]).to_dict() == {0: pytest.approx(2 / 3), 1: 1.0}


def test_classes_on_the_last_axis_are_not_read_as_a_mask(rng):
    mask = np.eye(3, dtype=int)[rng.integers(0, 3, (2, 5, 6))]  # (N, H, W, C)
    with pytest.raises(ValueError, match=r"channels: .*np\.moveaxis\(mask, -1, 1\)"):
        fm.dice(mask, mask)
    assert fm.iou(mask, mask, channels=False).tolist() == [1.0, 1.0]
    assert fm.iou(np.moveaxis(mask, -1, 1), np.moveaxis(mask, -1, 1)).shape == (2, 3)
