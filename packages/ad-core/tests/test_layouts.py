"""Each published tree, made tiny: names as published, pictures of 4 x 4 pixels."""

import json
from collections import Counter

import pytest

from ad.core.data.btad import DATASET as BTAD
from ad.core.data.dagm import DATASET as DAGM
from ad.core.data.finding import collect
from ad.core.data.inventory import take_inventory
from ad.core.data.ksdd import DATASET as KSDD
from ad.core.data.ksdd2 import DATASET as KSDD2
from ad.core.data.mpdd import DATASET as MPDD
from ad.core.data.mvtec import DATASET as MVTEC
from ad.core.data.mvtec_ad2 import DATASET as MVTEC_AD2
from ad.core.data.mvtec_loco import DATASET as MVTEC_LOCO
from ad.core.data.real_iad import DATASET as REAL_IAD
from ad.core.data.samples import Saturation
from ad.core.data.visa import DATASET as VISA
from ad.core.errors import DataError, PictureError
from ad.core.testing.pictures import put_pictures as put


def count(samples):
    """How many there are of each split and group, and with how many masks."""
    return Counter((s.split, s.group, len(s.masks)) for s in samples)


def masks_of(samples):
    """Names of the masks by name of the picture."""
    return {s.path.name: [mask.name for mask in s.masks] for s in samples if s.label}


def categories_of(samples):
    return list(dict.fromkeys(s.category for s in samples))


def test_mpdd_is_mvtecs_tree(tmp_path):
    put(tmp_path, "tubes/train/good/0.png", "tubes/test/good/1.png", "tubes/test/anomalous/2.png")
    put(tmp_path, "tubes/ground_truth/anomalous/2_mask.png")
    samples = collect(MPDD, "tubes", root=tmp_path, seed=0)
    assert count(samples) == {
        ("train", "good", 0): 1,
        ("test", "good", 0): 1,
        ("test", "anomalous", 1): 1,
    }


def test_mvtec_takes_validation_pictures_where_there_are_some(tmp_path):
    put(tmp_path, "c/train/good/0.png", "c/validation/good/1.png", "c/test/good/2.png")
    assert [s.split for s in collect(MVTEC, "c", root=tmp_path, seed=0)] == [
        *("train", "validation", "test")
    ]


def test_btad_calls_them_ok_and_ko_and_mixes_suffixes(tmp_path):
    put(tmp_path, "01/train/ok/0000.bmp", "01/test/ok/0001.bmp", "01/test/ko/0002.bmp")
    put(tmp_path, "01/ground_truth/ko/0002.png")
    put(tmp_path, "03/train/ok/0000.bmp", "03/test/ok/0001.bmp", "03/test/ko/0002.bmp")
    put(tmp_path, "03/ground_truth/ko/0002.bmp")
    samples = collect(BTAD, "all", root=tmp_path, seed=0)
    assert categories_of(samples) == ["01", "03"]
    assert count(samples) == {
        ("train", "good", 0): 2,
        ("test", "good", 0): 2,
        ("test", "ko", 1): 2,
    }
    assert [s.masks[0].name for s in samples if s.label] == ["0002.png", "0002.bmp"]


def test_btad_takes_a_root_that_is_itself_a_category(tmp_path):
    put(tmp_path, "02/train/ok/0000.png")
    assert categories_of(collect(BTAD, "02", root=tmp_path / "02", seed=0)) == ["02"]


@pytest.fixture
def ad2(tmp_path):
    put(tmp_path, "can/train/good/000_regular.png", "can/validation/good/001_regular.png")
    put(tmp_path, "can/test_public/good/002_overexposed.png")
    put(tmp_path, "can/test_public/bad/003_regular.png")
    put(tmp_path, "can/test_public/ground_truth/bad/003_regular_mask.png")
    put(tmp_path, "can/test_private/004_regular.png", "can/test_private_mixed/005_mixed.png")
    return tmp_path


def test_mvtec_ad2_keeps_its_splits_and_leaves_out_what_has_no_labels(ad2):
    samples = collect(MVTEC_AD2, "can", root=ad2, seed=0)
    assert count(samples) == {
        ("train", "good", 0): 1,
        ("validation", "good", 0): 1,
        ("test", "good", 0): 1,
        ("test", "bad", 1): 1,
    }
    assert masks_of(samples) == {"003_regular.png": ["003_regular_mask.png"]}


def test_mvtec_ad2_is_not_taken_for_a_tree_without_its_test_folder(tmp_path):
    put(tmp_path, "bottle/train/good/0.png", "bottle/test/good/1.png")
    with pytest.raises(DataError, match="holds `bottle/`. It is not laid out as `mvtec-ad2`"):
        collect(MVTEC_AD2, "all", root=tmp_path, seed=0)


CONFIG = [
    {
        "defect_name": "missing_pushpin",
        "pixel_value": 255,
        "saturation_threshold": 6300,
        "relative_saturation": False,
    },
    {
        "defect_name": "broken",
        "pixel_value": 254,
        "saturation_threshold": 1.0,
        "relative_saturation": True,
    },
]


@pytest.fixture
def loco(tmp_path):
    put(tmp_path, "pushpins/train/good/000.png", "pushpins/validation/good/000.png")
    put(tmp_path, "pushpins/test/good/000.png", "pushpins/test/logical_anomalies/000.png")
    put(tmp_path, "pushpins/test/structural_anomalies/000.png")
    truth = "pushpins/ground_truth"
    put(tmp_path, *(f"{truth}/logical_anomalies/000/{n:03d}.png" for n in range(3)), grey=255)
    put(tmp_path, f"{truth}/structural_anomalies/000/000.png", grey=254)
    (tmp_path / "pushpins/defects_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_mvtec_loco_has_several_masks_a_picture_and_says_how_much_has_to_be_found(loco):
    samples = collect(MVTEC_LOCO, "all", root=loco, seed=0)
    assert count(samples) == {
        ("train", "good", 0): 1,
        ("validation", "good", 0): 1,
        ("test", "good", 0): 1,
        ("test", "logical_anomalies", 3): 1,
        ("test", "structural_anomalies", 1): 1,
    }
    assert {s.saturations for s in samples if s.label == 0} == {()}
    assert {s.saturations for s in samples if s.label == 1} == {
        (Saturation(255, 6300.0, False), Saturation(254, 1.0, True))
    }
    assert take_inventory(MVTEC_LOCO, loco, samples).left_out == ()


@pytest.mark.parametrize("text", ["no json", "[]", '[{"pixel_value": 255}]', "[1]", "1"])
def test_a_wrong_defects_config_of_mvtec_loco_is_refused(loco, text):
    (loco / "pushpins/defects_config.json").write_text(text)
    with pytest.raises(DataError, match=r"defects_config\.json` cannot be read .*`pixel_value`"):
        collect(MVTEC_LOCO, "all", root=loco, seed=0)


def test_mvtec_loco_without_folders_of_masks_is_refused(loco):
    truth = loco / "pushpins/ground_truth/logical_anomalies"
    (truth / "000").rename(truth / "other")
    words = r"has no masks of the pictures in .*`000\.png` needs its masks in .*anomalies/000`"
    with pytest.raises(DataError, match=words):
        collect(MVTEC_LOCO, "all", root=loco, seed=0)


@pytest.mark.parametrize(
    ("saturation", "area"),
    [
        (Saturation(1, 30, False), 30),
        (Saturation(1, 500, False), 100),
        (Saturation(1, 0.255, True), 25),
        (Saturation(1, 1.0, True), 100),
        (Saturation(1, 0.001, True), 1),
    ],
)
def test_a_saturation_is_pixels_or_a_share_and_never_more_than_there_are(saturation, area):
    assert saturation.area(100) == area


@pytest.fixture
def visa(tmp_path):
    rows = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1"):
        images = f"{name}/Data/Images"
        put(tmp_path, f"{images}/Normal/0000.JPG", f"{images}/Normal/0001.JPG")
        put(tmp_path, f"{images}/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png")
        rows += [
            f"{name},train,normal,{images}/Normal/0000.JPG,",
            f"{name},test,normal,{images}/Normal/0001.JPG,",
            f"{name},test,anomaly,{images}/Anomaly/000.JPG,{name}/Data/Masks/Anomaly/000.png",
        ]
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_visa_as_published_follows_its_table(visa):
    samples = collect(VISA, "all", root=visa, seed=0)
    assert categories_of(samples) == ["candle", "pcb1"]
    assert count(samples) == {
        ("train", "good", 0): 2,
        ("test", "good", 0): 2,
        ("test", "bad", 1): 2,
    }
    assert all(s.path.is_file() and all(m.is_file() for m in s.masks) for s in samples)
    (visa / "split_csv/2cls_fewshot.csv").touch()
    (other,) = take_inventory(VISA, visa, samples).left_out  # and not the table that was read
    assert other.example == "split_csv/2cls_fewshot.csv"


def test_visa_lists_only_categories_that_are_there(visa):
    (visa / "pcb1").rename(visa.parent / "elsewhere")
    with pytest.raises(DataError, match="has no category `pcb1`. It has `all`, `candle`"):
        collect(VISA, "pcb1", root=visa, seed=0)


@pytest.mark.parametrize("folder", ["", "1cls/"])
def test_visa_as_prepared_has_mvtecs_tree(tmp_path, folder):
    put(tmp_path, f"{folder}candle/train/good/0000.JPG", f"{folder}candle/test/bad/000.JPG")
    put(tmp_path, f"{folder}candle/ground_truth/bad/000.png")
    samples = collect(VISA, "candle", root=tmp_path, seed=0)
    assert count(samples) == {("train", "good", 0): 1, ("test", "bad", 1): 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("object,image\ncandle,x\n", "must have the columns object, split.*it has object, image"),
        ("", "it has none"),
        (
            "object,split,label,image,mask\ncandle,val,normal,a.JPG,\n",
            "of `a.JPG` it says `val,normal`",
        ),
    ],
)
def test_a_wrong_table_of_visa_is_refused(visa, text, words):
    (visa / "split_csv/1cls.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        collect(VISA, "candle", root=visa, seed=0)


@pytest.fixture
def ksdd(tmp_path):
    for part in range(10):
        put(tmp_path, f"kos{part:02d}/Part0.jpg", f"kos{part:02d}/Part0_label.bmp")
    put(tmp_path, "kos03/Part1.jpg")
    put(tmp_path, "kos03/Part1_label.bmp", grey=255)
    return tmp_path


def test_ksdd_tells_good_from_defective_by_the_mask_and_splits_by_the_seed(ksdd):
    samples = collect(KSDD, "all", root=ksdd, seed=0)
    assert count(samples) == {
        ("train", "good", 0): 8,
        ("test", "good", 0): 2,
        ("test", "defect", 1): 1,
    }
    assert masks_of(samples) == {"Part1.jpg": ["Part1_label.bmp"]}
    assert samples == collect(KSDD, "all", root=ksdd, seed=0)
    assert samples != collect(KSDD, "all", root=ksdd, seed=1)


def test_ksdd_refuses_a_picture_that_has_no_mask(ksdd):
    (ksdd / "kos05/Part0_label.bmp").unlink()
    with pytest.raises(DataError, match=r"kos05/Part0\.jpg` has no mask beside it.*the original"):
        collect(KSDD, "all", root=ksdd, seed=0)


def test_ksdd_names_a_mask_that_cannot_be_read(ksdd):
    (ksdd / "kos05/Part0_label.bmp").write_bytes(b"")
    with pytest.raises(PictureError, match=r"The mask `.*kos05/Part0_label\.bmp` is empty"):
        collect(KSDD, "all", root=ksdd, seed=0)


def test_ksdd2_keeps_its_split_and_learns_from_good_pictures_only(tmp_path):
    for name in ("train/10000", "train/10001", "test/20000"):
        put(tmp_path, f"{name}.png", f"{name}_GT.png")
    for name in ("train/10002", "test/20001"):
        put(tmp_path, f"{name}.png")
        put(tmp_path, f"{name}_GT.png", grey=255)
    samples = collect(KSDD2, "all", root=tmp_path, seed=0)
    assert count(samples) == {
        ("train", "good", 0): 2,
        ("test", "good", 0): 1,
        ("test", "defect", 1): 1,
    }
    assert masks_of(samples) == {"20001.png": ["20001_GT.png"]}
    labelled = collect(KSDD2, "all", root=tmp_path, seed=0, labelled=True)
    assert count(labelled) == {**count(samples), ("train", "defect", 1): 1}
    assert masks_of(labelled)["10002.png"] == ["10002_GT.png"]


def test_dagm_keeps_its_split_and_learns_from_good_pictures_only(tmp_path):
    put(tmp_path, *(f"Class10/Train/{n:04d}.PNG" for n in (576, 577, 578)))
    put(tmp_path, "Class10/Train/Label/0577_label.PNG")
    put(tmp_path, "Class10/Test/0001.PNG", "Class10/Test/0002.PNG")
    put(tmp_path, "Class10/Test/Label/0002_label.PNG")
    (tmp_path / "Class10/Test/Label/Labels.txt").write_text("1\n")
    samples = collect(DAGM, "all", root=tmp_path, seed=0)
    assert categories_of(samples) == ["Class10"]
    assert count(samples) == {
        ("train", "good", 0): 2,
        ("test", "good", 0): 1,
        ("test", "defect", 1): 1,
    }
    assert masks_of(samples) == {"0002.PNG": ["0002_label.PNG"]}
    labelled = collect(DAGM, "all", root=tmp_path, seed=0, labelled=True)
    assert count(labelled) == {**count(samples), ("train", "defect", 1): 1}
    assert masks_of(labelled)["0577.PNG"] == ["0577_label.PNG"]


def test_dagm_without_its_masks_is_refused_since_all_would_seem_good(tmp_path):
    put(tmp_path, "Class1/Train/0001.PNG", "Class1/Test/0002.PNG")
    with pytest.raises(DataError, match="It is not laid out as `dagm`"):
        collect(DAGM, "all", root=tmp_path, seed=0)


def real_iad(root, resolution="realiad_1024", jsons="realiad_jsons"):
    home = f"{resolution}/toy"
    good = [f"OK/S000{n}/toy_000{n}_OK_C1.jpg" for n in (1, 2)]
    bad = [f"NG/AK/S000{n}/toy_000{n}_NG_AK_C1" for n in (3, 4)]
    put(root, *(f"{home}/{name}" for name in good))
    put(root, *(f"{home}/{name}{end}" for name in bad for end in (".jpg", "_mask.png")))
    row = [{"image_path": name, "mask_path": None, "anomaly_class": "OK"} for name in good]
    row += [
        {"image_path": f"{name}.jpg", "mask_path": f"{name}_mask.png", "anomaly_class": "AK"}
        for name in bad
    ]
    record = {
        "meta": {"normal_class": "OK", "prefix": "toy/"},
        "train": [row[0], row[2]],
        "test": [row[1], row[3]],
    }
    (root / jsons).mkdir(parents=True, exist_ok=True)
    (root / jsons / "toy.json").write_text(json.dumps(record))
    return root


@pytest.mark.parametrize("jsons", ["realiad_jsons", "realiad_jsons/realiad_jsons"])
def test_real_iad_follows_its_json_and_learns_from_good_pictures_only(tmp_path, jsons):
    root = real_iad(tmp_path, jsons=jsons)
    samples = collect(REAL_IAD, "toy", root=root, seed=0)
    assert count(samples) == {
        ("train", "good", 0): 1,
        ("test", "good", 0): 1,
        ("test", "AK", 1): 1,
    }
    assert all(s.path.is_file() and all(m.is_file() for m in s.masks) for s in samples)
    labelled = collect(REAL_IAD, "toy", root=root, seed=0, labelled=True)
    assert count(labelled) == {**count(samples), ("train", "AK", 1): 1}
    assert take_inventory(REAL_IAD, root, labelled).left_out == ()


def test_real_iad_of_several_resolutions_wants_one_named(tmp_path):
    real_iad(tmp_path, "realiad_256")
    real_iad(tmp_path, "realiad_1024")
    words = "several resolutions: `realiad_1024`, `realiad_256`. Name the one to use, such as"
    with pytest.raises(DataError, match=words):
        collect(REAL_IAD, "toy", root=tmp_path, seed=0)
    samples = collect(REAL_IAD, "toy", root=tmp_path / "realiad_256", seed=0)
    assert len(samples) == 3
    assert all("realiad_256" in s.path.parts for s in samples)


@pytest.mark.parametrize("text", ["no json", "[]", '{"train": []}', '{"train": [{}], "test": []}'])
def test_a_wrong_split_of_real_iad_is_refused(tmp_path, text):
    real_iad(tmp_path)
    (tmp_path / "realiad_jsons/toy.json").write_text(text)
    with pytest.raises(DataError, match=r"toy\.json` is not a split of Real-IAD .*`anomaly_class`"):
        collect(REAL_IAD, "toy", root=tmp_path, seed=0)
