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
