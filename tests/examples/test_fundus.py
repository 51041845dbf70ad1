"""The rendered photographs: labels and masks agree with the parameters, groups look as their task says, seeds hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common import fundus, fundus_render, fundus_sheet


@pytest.fixture(scope="module")
def standard():
    return fundus.make("standard", counts=(60, 60, 60), size=96, seed=3)


def heights(mask):
    """Vertical extent in pixels of every image of a boolean mask (N, H, W)."""
    return mask.any(axis=2).sum(axis=1)


def test_shares_counts_and_unknown_groups():
    data = fundus.make(images=10_001, size=8, seed=0, unknown=0.1)
    assert np.mean(data.group < 0) == pytest.approx(0.1, abs=0.02)
    known = fundus.make(images=10_000, size=8, seed=0)
    assert known.group_counts == [9030, 430, 540]
    assert fundus.make(images=7, shares=(1, 1, 1), size=8).group_counts == [3, 2, 2]
    _, valid, test = fundus.make_splits("camera", train=10, test_per_group=12, size=8)
    assert valid is None
    assert test.group_counts == [12, 12]


def test_masks_show_the_ratio_and_the_label_is_the_limit():
    data = fundus.make("standard", counts=(40, 40, 40), size=256, seed=1)
    measured = heights(data.masks == 2) / heights(data.masks >= 1)
    np.testing.assert_allclose(measured, data.vcdr, atol=0.035)
    limit = data.task.limit + np.array([look.norm for look in data.task.looks])[data.group]
    assert np.array_equal(data.label == 1, data.vcdr > limit)
    np.testing.assert_allclose(data.margin, np.abs(data.vcdr - limit), atol=1e-6)
    assert data.margin.min() > 0.0199
    assert ((data.masks == 2).sum(axis=(1, 2)) > 0).all()


def test_masks_do_not_depend_on_how_the_picture_is_taken():
    task = fundus.TASKS["standard"]
    plain = replace(task, looks=tuple(replace(look, noise=0, blur=0, pigment=0.1) for look in task.looks))
    a, b = (fundus.make(t, counts=(5, 5, 5), seed=4) for t in (task, plain))
    assert np.array_equal(a.masks, b.masks)
    assert not np.array_equal(a.images, b.images)


def test_patients_have_one_label_group_sex_and_age_and_at_most_one_photograph_an_eye(standard):
    pairs = 0
    for patient in np.unique(standard.patient):
        rows = np.flatnonzero(standard.patient == patient)
        assert len(rows) <= 2
        for name in ("label", "group", "sex", "age"):
            assert len(set(getattr(standard, name)[rows])) == 1
        assert len(set(standard.eye[rows])) == len(rows)
        pairs += len(rows) == 2
    assert pairs > 20


def test_seeds_and_splits():
    a, b = (fundus.make("noise", images=30, seed=7, size=32) for _ in range(2))
    assert np.array_equal(a.images, b.images)
    assert np.array_equal(a.label, b.label)
    splits = [fundus.make("noise", images=30, seed=7, size=32, split=s) for s in fundus.SPLITS]
    assert not np.array_equal(splits[0].vcdr, splits[2].vcdr)
    patients = [set(s.patient) for s in splits]
    assert len(set.union(*patients)) == sum(map(len, patients))  # none in two splits
    assert not np.array_equal(a.images, fundus.make("noise", images=30, seed=8, size=32).images)
    assert not np.array_equal(a.vcdr, fundus.make("standard", images=30, seed=7, size=32).vcdr)


def test_the_disc_is_on_the_nasal_side(standard):
    columns = np.arange(96)
    centre = ((standard.masks > 0).sum(axis=1) * columns).sum(axis=1) / (standard.masks > 0).sum(axis=(1, 2))
    assert (centre[standard.eye == 0] > 48).all()  # the photograph of a right eye has the disc on the right
    assert (centre[standard.eye == 1] < 48).all()


def test_groups_look_as_their_task_says(standard):
    fundus_pixels = standard.images[:, 40:56, 40:56].mean(axis=(1, 2, 3))
    light, dark, medium = (fundus_pixels[standard.group == g].mean() for g in range(3))
    assert dark < medium < light

    def step(data, group):  # green channel of the cup minus that of the rim
        rows = np.flatnonzero(data.group == group)
        green = data.images[rows, :, :, 1].astype(float)
        return np.mean([g[m == 2].mean() - g[m == 1].mean() for g, m in zip(green, data.masks[rows], strict=True)])

    pale = fundus.make("pigmentation", counts=(20, 20, 20), seed=0)
    assert step(pale, 0) > 10 > 0 > step(pale, 1)
    faint = fundus.make("low-contrast", counts=(20, 20, 20), seed=0)
    assert step(faint, 1) < step(faint, 2) < step(faint, 0)
    noisy = fundus.make("noise", counts=(20, 20, 20), seed=0)
    grain = np.abs(np.diff(noisy.images[:, 24:40, 24:40, 1].astype(float), axis=2)).mean(axis=(1, 2))
    assert grain[noisy.group == 1].mean() > 2 * grain[noisy.group == 0].mean()
    rare = fundus.make("prevalence", counts=(300, 300, 300), size=8, seed=0)
    assert [rare.label[rare.group == g].mean() for g in (1, 0, 2)] == pytest.approx([0.12, 0.4, 0.75], abs=0.09)


def test_findings_are_painted():
    data = fundus.make(images=1, size=96, shares=(1, 0, 0))
    table = fundus._draw(data.task, np.zeros(1, int), np.zeros(1, int), np.random.default_rng(0))

    def paint(**changes):
        parameters = {**table, "atrophy": np.zeros(1), "haemorrhage": np.zeros(1), "drusen": np.zeros(1)}
        parameters |= {"noise": np.zeros(1)} | {k: np.full(1, v) for k, v in changes.items()}
        image, _ = fundus_render.render(parameters, 96, np.random.default_rng(5))
        return image[0].astype(int)

    plain = paint()
    for finding in ("atrophy", "haemorrhage", "drusen"):
        changed = np.abs(paint(**{finding: 1}) - plain).max(axis=2) > 12
        assert changed.sum() > 10, finding
    assert paint(haze=0.5).std() < plain.std()
    with pytest.raises(ValueError, match="vcdr"):
        fundus_render.render({k: v for k, v in table.items() if k != "vcdr"}, 16, np.random.default_rng(0))


def test_subsets_attributes_tensors_captions(standard):
    part = standard[standard.group == 1]
    assert part.group_counts == [0, 60, 0]
    assert standard.attributes.shape == (180, 3)
    assert (standard.attributes.max(axis=0) < standard.attribute_sizes).all()
    tensors = part.tensors()
    assert tensors["images"].shape == (60, 3, 96, 96)
    assert tensors["images"].min() == -1.0
    assert tensors["images"].max() <= 1.0
    assert tensors["label"].dtype == tensors["masks"].dtype == torch.int64
    texts = fundus.captions(part)
    assert len(texts) == 60
    for i, text in enumerate(texts):
        assert ("no glaucoma" in text) == (part.label[i] == 0)
        assert f"{part.age[i]}-year-old {'man' if part.sex[i] else 'woman'}" in text
    assert "year-old" not in fundus.captions(part, demographics=False)[0]
    assert np.array_equal(part.findings[:, 0], part.label)


@pytest.mark.parametrize("name", fundus.TASKS)
def test_every_task_renders_and_is_described(name):
    task = fundus.TASKS[name]
    assert len(task.shares) == len(task.looks)
    assert sum(task.shares) == pytest.approx(1)
    assert task.about
    page = Path(__file__).resolve().parents[2] / "docs" / "examples" / "rendered_fundus.md"
    assert f"| `{name}` |" in page.read_text(encoding="utf-8")
    data = fundus.make(name, images=40, size=16, shares=[1] * len(task.looks))
    assert set(data.label) == {0, 1}
    assert data.images.std() > 20


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="task: 'nonsense'"):
        fundus.make("nonsense")
    with pytest.raises(ValueError, match="split: 'dev'"):
        fundus.make(split="dev")
    with pytest.raises(ValueError, match="3 groups"):
        fundus.make(counts=(3, 4))
    with pytest.raises(ValueError, match="shares"):
        fundus.make(shares=(-1, 1, 1))


def test_sample_sheet(tmp_path):
    path = fundus_sheet.sheet(tmp_path / "sheet.png", tasks=("standard",), columns=3, size=32)
    assert path.stat().st_size > 20_000
