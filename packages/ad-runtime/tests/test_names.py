"""What names of folders and files mean."""

from pathlib import Path

import pytest

from ad.runtime.pictures.names import drawn_from_stem, is_left_out, masked_stem, meaning_of


@pytest.mark.parametrize(
    ("names", "meaning"),
    [
        ("good Good OK ok_parts normal-images good2 goods", ("good", None)),
        ("test_good good-test GoodTest normal_test testing_ok eval_good", ("good", "test")),
        ("good_train train-normal", ("good", "train")),
        ("val_good good_validation", ("good", "validation")),
        ("masks Mask gt GT ground_truth GroundTruth groundtruth labels", ("masks", None)),
        ("annotations segmentation dent_masks bad_masks mask_images", ("masks", None)),
        ("train Training", ("split", "train")),
        ("test testset test_images", ("split", "test")),
        ("val validation", ("split", "validation")),
        ("bad NG nok defective abnormal not_good no_ok anomalies", ("defective", None)),
        ("test_bad abnormal-test", ("defective", "test")),
        ("dent scratch thread_side torn_label 123 smoke masked colour day1", ("other", None)),
        ("good_day2 goodtest print_ok broken_good train_test_good", ("doubtful", None)),
        ("Gutteile Gut gute i.O. iO fehlerfrei bons conforme bueno negatives", ("doubtful", None)),
        ("niO n.i.O.", ("other", None)),
        ("Masken masques SegmentationClass masks_machine", ("masks", None)),
        ("class_0 object gutter", ("other", None)),
        ("nominal healthy defect_free no_defect MT_Free reference", ("doubtful", None)),
    ],
)
def test_folders_are_told_by_the_words_in_their_names(names, meaning):
    assert {name: tuple(meaning_of(name)) for name in names.split()} == dict.fromkeys(
        names.split(), meaning
    )


# The kinds of defect of MVTec AD, MVTec LOCO, MPDD, VisA, BTAD, KolektorSDD and MTD.
PUBLISHED = """broken_large broken_small contamination bent_wire cable_swap combined poke
cut_inner_insulation cut_outer_insulation missing_cable missing_wire crack faulty_imprint scratch
squeeze color cut hole metal_contamination thread bent glue print fold flip pill_type rough
manipulated_front scratch_head scratch_neck thread_side thread_top glue_strip gray_stroke oil
damaged_case bent_lead misplaced liquid broken_teeth fabric_border fabric_interior split_teeth
squeezed_teeth defective logical_anomalies structural_anomalies parts_mismatch flattening
defective_painting bend_and_parts_mismatch anomalous major_rust total_rust ko bad blowhole fray
uneven break"""


def test_kinds_of_defect_of_published_data_are_no_good_parts_and_no_masks():
    roles = {name: meaning_of(name).role for name in PUBLISHED.split()}
    assert len(roles) == 60
    assert {name: role for name, role in roles.items() if role not in ("other", "defective")} == {}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *(("000_mask", "000"), ("000-GT", "000"), ("a.mask", "a"), ("a_ground_truth", "a")),
        *(("000.png_mask", "000"), ("000_Maske", "000"), ("000_mask0", "000")),
        *(("mask_000", "000"), ("a_label", "a"), ("000_mask_2", "000"), ("x_gt1", "x")),
        *(("000", None), ("unmasked", None), ("000mask", None), ("mask", None), ("a_mark", None)),
    ],
)
def test_a_file_named_as_a_mask_says_of_which_picture(name, stem):
    assert masked_stem(Path(f"dent/{name}.png")) == stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [("000_thumb", "000"), ("tn_a", "a"), ("a-heatmap", "a"), ("000", None), ("a_tnx", None)],
)
def test_a_file_named_as_a_thumbnail_or_heat_map_says_of_which_picture(name, stem):
    assert drawn_from_stem(Path(f"{name}.png")) == stem


def test_what_systems_put_beside_pictures_is_known():
    names = (".thumbnails", "@eaDir", "__MACOSX", "._000.png", "Thumbs", "$RECYCLE.BIN")
    assert all(map(is_left_out, names))
    assert not any(map(is_left_out, ("good", "000.png", "thumb_missing", "eaDir")))
