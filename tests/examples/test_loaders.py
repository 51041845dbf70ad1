"""Loaders of public data sets, on small files that the tests write in the layouts as downloaded."""

import csv

import numpy as np
import pytest

from common import ham10000, loaders
from common.loaders import DataError, load

Image = pytest.importorskip("PIL.Image", reason="the loaders need Pillow (extra 'examples')")

ATTRIBUTES = {"age": 61.5, "gender": 1, "race": 0, "ethnicity": -1, "language": 2, "maritalstatus": 4}


def write_ham(root, lesions=40, size=(60, 45)):
    """1 to 3 photographs a lesion; the red channel tells the row, the green channel is 200."""
    rng = np.random.default_rng(0)
    rows = []
    for lesion in range(lesions):
        for _ in range(1 + lesion % 3):
            i = len(rows)
            rows.append({
                "lesion_id": f"HAM_{lesion:07d}", "image_id": f"ISIC_{i:07d}", "dx": ham10000.DIAGNOSES[lesion % 7],
                "dx_type": "histo", "age": ["", "35.0", "60.0", "80.0"][lesion % 4],
                "sex": ["female", "male", "unknown"][lesion % 3], "localization": "back",
            })  # fmt: skip
            folder = root / f"HAM10000_images_part_{1 + i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
            pixels[:] = (i, 200, int(rng.integers(0, 255)))
            Image.fromarray(pixels).save(folder / f"ISIC_{i:07d}.jpg", quality=95)
    write_csv(root, rows)
    return rows


def write_csv(root, rows):
    with (root / "HAM10000_metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_npz(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"slo_fundus": np.full((24, 32), 77, dtype=np.uint8), "glaucoma": 1, **ATTRIBUTES, **changes}
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return path


def test_ham10000_lesions_stay_on_one_side(tmp_path):
    rows = write_ham(tmp_path)
    for seed in range(5):
        parts = load(tmp_path, size=16, seed=seed)
        lesions = [set(part.unit) for part in parts]
        assert sum(len(part) for part in parts) == len(rows)
        assert len(set.union(*lesions)) == sum(map(len, lesions)) == 40
        assert all(len(part) for part in parts)
    assert 0.55 < len(parts[0]) / len(rows) < 0.85


def test_ham10000_images_labels_and_attributes_belong_together(tmp_path):
    rows = write_ham(tmp_path)
    for part in load(tmp_path, size=16, seed=1):
        for i, file in enumerate(part.files):
            row = rows[int(file[-11:-4])]
            assert part.images[i, :, :, 0].mean() == pytest.approx(int(file[-11:-4]), abs=3)
            assert part.images[i, :, :, 1].mean() == pytest.approx(200, abs=3)
            assert part.label[i] == (row["dx"] in ("mel", "bcc", "akiec"))
            assert part.group[i] == {"female": 0, "male": 1, "unknown": -1}[row["sex"]]
            assert part.attributes["age"][i] == {"": -1, "35.0": 0, "60.0": 1, "80.0": 1}[row["age"]]
        assert part.images.shape == (len(part), 16, 16, 3)
        assert part.group_names == ("female", "male")
        assert sum(part.group_counts) == (part.group >= 0).sum()
    train, _, _ = loaders.load_ham10000(tmp_path, attribute="age", label="dx", size=8)
    assert train.group_names == ham10000.AGES
    assert np.array_equal(train.group, train.attributes["age"])
    assert train.label.max() == 6
    few = load(tmp_path, size=8, limit=20)
    assert 8 <= sum(map(len, few)) <= 32


def test_ham10000_errors_name_the_file(tmp_path):
    rows = write_ham(tmp_path, lesions=6)
    broken = tmp_path / "HAM10000_images_part_1" / "ISIC_0000002.jpg"
    whole = broken.read_bytes()
    for content in (whole[: len(whole) // 2], b"not an image", b""):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"ISIC_0000002\.jpg: not a readable image"):
            load(tmp_path)
    broken.unlink()
    with pytest.raises(DataError, match=r"ISIC_0000002\.jpg: missing, with 0 more"):
        load(tmp_path)
    for column, value, message in (
        ("dx", "wart", "line 2: dx is 'wart'"),
        ("sex", "x", "line 2: sex is 'x'"),
        ("age", "old", "line 2: age is 'old'"),
    ):
        write_csv(tmp_path, [{**rows[0], column: value}])
        with pytest.raises(DataError, match=rf"HAM10000_metadata\.csv, {message}"):
            load(tmp_path)
    write_csv(tmp_path, [{k: v for k, v in rows[0].items() if k != "lesion_id"}])
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv: column lesion_id is missing"):
        load(tmp_path)
    (tmp_path / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx,age,sex\n")
    with pytest.raises(DataError, match="no row"):
        load(tmp_path)
    (tmp_path / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx,age,sex\nHAM_1,ISIC_1\n")
    with pytest.raises(DataError, match="line 2: fewer columns"):
        load(tmp_path)


def test_harvard_folders_are_the_split(tmp_path):
    for folder, count in (("Training", 8), ("Validation", 2), ("Test", 3)):
        for i in range(count):
            write_npz(tmp_path / folder / f"data_{i:05d}.npz", race=i % 3, glaucoma=i % 2)
    train, valid, test = load(tmp_path, size=12)
    assert (len(train), len(valid), len(test)) == (8, 2, 3)
    assert train.group.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert train.label.tolist() == [0, 1] * 4
    assert train.group_names == ("Asian", "Black", "White")
    assert {k: v[0] for k, v in train.attributes.items()} == {
        "gender": 1, "race": 0, "ethnicity": -1, "language": 2, "maritalstatus": 4, "age": 1,
    }  # fmt: skip
    assert (train.images == 77).all()
    assert train.masks is None
    assert load(tmp_path, attribute="ethnicity", size=12)[0].group.tolist() == [-1] * 8


def test_harvard_masks_single_folder_and_missing_validation(tmp_path):
    mask = np.zeros((24, 32), dtype=np.int64)
    mask[6:18, 8:24], mask[10:14, 12:20] = -1, -2
    for i in range(20):
        write_npz(tmp_path / "flat" / f"data_{i:05d}.npz", glaucoma=None, disc_cup_mask=mask, age=-1)
    parts = load(tmp_path / "flat", size=24)
    assert sum(map(len, parts)) == 20
    assert [len(p) for p in parts] == [14, 2, 4]
    assert not set(parts[0].files) & set(parts[2].files)
    assert np.bincount(parts[0].masks[0].ravel()).tolist() == [24 * 24 - 12 * 12, 12 * 12 - 4 * 6, 4 * 6]
    assert (parts[0].attributes["age"] == -1).all()
    assert parts[0][:3].masks.shape == (3, 24, 24)
    assert set(parts[0].tensors()) == {"images", "label", "group", "masks"}
    for i in range(16):
        write_npz(tmp_path / "two" / "Training" / f"{i}.npz")
    write_npz(tmp_path / "two" / "Test" / "0.npz")
    assert [len(p) for p in load(tmp_path / "two", size=4)] == [14, 2, 1]
    assert sum(map(len, load(tmp_path / "flat", size=4, limit=5))) == 5


@pytest.mark.parametrize("scaled", [np.full((4, 4), 0.5), np.full((4, 4), 128.0), np.full((4, 4, 3), 128)])
def test_harvard_image_types(tmp_path, scaled):
    write_npz(tmp_path / "a.npz", slo_fundus=scaled)
    parts = load(tmp_path, size=4)
    images = np.concatenate([p.images for p in parts])
    assert images.shape == (1, 4, 4, 3)
    assert (images == 128).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"race": None}, r"b\.npz: key 'race' is missing"),
        ({"slo_fundus": None}, r"b\.npz: key 'slo_fundus' is missing"),
        ({"glaucoma": None}, r"b\.npz: neither 'glaucoma' nor 'disc_cup_mask'"),
        ({"glaucoma": -1}, r"b\.npz: glaucoma is -1; 0 \.\. 1"),
        ({"gender": 2}, r"b\.npz: gender is 2; -1 \.\. 1"),
        ({"ethnicity": 0.5}, r"b\.npz: ethnicity is 0\.5"),
        ({"language": [0, 1]}, r"b\.npz: language is \[0, 1\]"),
        ({"age": "old"}, r"b\.npz: age is"),
        ({"slo_fundus": np.zeros((3, 4, 5))}, r"b\.npz: slo_fundus has shape \(3, 4, 5\)"),
        ({"slo_fundus": np.full((4, 4), np.nan)}, r"b\.npz: slo_fundus holds other"),
        ({"slo_fundus": np.full((4, 4), 4000)}, r"b\.npz: slo_fundus holds 4000"),
        ({"disc_cup_mask": np.full((24, 32), -3)}, r"b\.npz: disc_cup_mask must hold"),
        ({"disc_cup_mask": np.zeros((4, 4))}, r"b\.npz: disc_cup_mask must hold"),
        ({"disc_cup_mask": np.zeros((24, 32))}, r"a\.npz: key 'disc_cup_mask' is missing, although"),
        ({"race": np.array([None])}, r"b\.npz: not a readable \.npz file"),
    ],
)
def test_harvard_errors_name_file_and_key(tmp_path, changes, message):
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz", **changes)
    with pytest.raises(DataError, match=message):
        load(tmp_path, size=4)


def test_harvard_broken_files_and_folders(tmp_path):
    path = write_npz(tmp_path / "Training" / "a.npz")
    with pytest.raises(DataError, match="Test: missing beside Training"):
        load(tmp_path)
    (tmp_path / "Test").mkdir()
    with pytest.raises(DataError, match=r"Test: no \.npz file"):
        load(tmp_path)
    write_npz(tmp_path / "Test" / "b.npz")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:400] + bytes(100) + whole[500:], b"nothing", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz: not a readable \.npz file"):
            load(tmp_path)


def test_folders_and_names_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither HAM10000"):
        load(tmp_path)
    write_ham(tmp_path, lesions=3)
    with pytest.raises(ValueError, match="attribute: 'race' is not one of sex, age"):
        load(tmp_path, attribute="race")


def test_split_units_keeps_units_and_shares():
    units = np.random.default_rng(0).integers(0, 300, 1000)
    part = loaders.split_units(units, (0.5, 0.3, 0.2), seed=0)
    assert all(len(set(part[units == u])) == 1 for u in np.unique(units))
    np.testing.assert_allclose(np.bincount(part) / 1000, (0.5, 0.3, 0.2), atol=0.01)
    assert np.array_equal(part, loaders.split_units(units, (0.5, 0.3, 0.2), seed=0))
    assert not np.array_equal(part, loaders.split_units(units, (0.5, 0.3, 0.2), seed=1))
