"""Labelled defective pictures to learn from: which, how often, flipped how, and who gets none."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from labelled_student import LabelledStudentTrainer
from PIL import Image
from small_learning import SIZE, Recording, setup

from ad.core import ModelRegistry, evaluate, train
from ad.core.bench.beforehand import refuse_beforehand
from ad.core.bench.executors import train_here
from ad.core.bench.jobs import plan
from ad.core.data.batches import PictureSet, to_device
from ad.core.data.learning import LearningData
from ad.core.errors import DataError, SettingError
from ad.core.learning.loop import fit
from ad.core.saved.record import read_data_notes
from ad.core.testing.pictures import make_picture

CPU = torch.device("cpu")


def pictures(good, bad):
    """Good ones, then defective ones, and the masks of these."""
    broken = [make_picture(100 + i, size=SIZE, defect=True) for i in range(bad)]
    all_ = [make_picture(i, size=SIZE)[0] for i in range(good)] + [one for one, _ in broken]
    return PictureSet(all_, SIZE), {good + i: mask for i, (_, mask) in enumerate(broken)}


def data(good, bad, *, masks=True, frozen=lambda images: (), **options):
    read, defects = pictures(good, bad)
    defects = defects if masks else dict.fromkeys(defects)
    return LearningData(read, CPU, frozen, seed=3, defects=defects, **options)


def test_an_epoch_has_each_defective_picture_four_times_and_as_many_good_ones():
    one = data(20, 3)
    assert (one.epoch_length, one.defective, one.good) == (24, [20, 21, 22], [*range(20)])
    seen = Counter()
    for epoch in range(5):
        order = one.order(epoch)
        bad, good = [i for i in order if i >= 20], [i for i in order if i < 20]
        assert sorted(bad) == list(range(20, 32))
        assert Counter(map(one._upright, bad)) == {20: 4, 21: 4, 22: 4}
        assert len(good) == 12
        seen.update(good)
    assert set(seen.values()) == {3}  # 60 drawn of 20: none again before all others came


def test_good_pictures_come_again_where_there_are_fewer_than_defective_ones():
    good = [i for i in data(5, 3).order(0) if i < 5]
    assert sorted(Counter(good).values()) == [2, 2, 2, 3, 3]


def test_an_order_depends_on_seed_and_epoch_alone_and_mixes_the_whole_epoch():
    orders = [data(20, 3).order(epoch) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    halves = [
        sum(i >= 20 for i in order[:12]) for order in (data(20, 3).order(e) for e in range(9))
    ]
    assert len(set(halves)) > 1  # balanced over an epoch, not over its parts


def test_without_defective_pictures_the_order_is_what_it_was():
    one = data(10, 0)
    expected = np.random.default_rng((3, 0, 7)).permutation(10).tolist()
    assert (one.order(7), one.epoch_length) == (expected, 10)
    assert next(one.batches(4)).truth is None


@pytest.mark.parametrize("cache", [True, False])
def test_pictures_masks_and_what_is_frozen_are_flipped_alike(cache):
    one = data(2, 2, frozen=lambda images: (images[:, :1] * 2,), cache=cache)
    one.fill()
    (batch,) = one.batches(20, order=[*range(10)], epoch=1)
    plain = np.stack([one.pictures.sources[i] for i in range(4)])
    upright = to_device(torch.from_numpy(plain), CPU)
    masks = torch.zeros(4, SIZE, SIZE)
    for index, mask in pictures(2, 2)[1].items():
        masks[index] = torch.from_numpy(mask)
    ways = [(1,), (2,), (1, 2)]  # upside down, left to right, half a turn
    images = torch.stack([*upright, *(upright[k].flip(w) for k in (2, 3) for w in ways)])
    turned = [masks[k].flip([side - 1 for side in w]) for k in (2, 3) for w in ways]
    assert torch.equal(batch.images, images)
    assert torch.equal(batch.truth.masks, torch.stack([*masks, *turned]))
    assert torch.equal(batch.frozen[0], images[:, :1] * 2)
    assert batch.truth.labels.tolist() == [0, 0, *[1] * 8]
    assert batch.indices == tuple(range(10))
    assert one.source(5) is one.pictures.sources[2]
    assert one.source(9) is one.pictures.sources[3]


def test_a_mask_that_marks_nothing_is_none():
    read, defects = pictures(2, 3)
    defects[2], defects[3] = None, np.zeros((SIZE, SIZE), dtype=bool)
    one = LearningData(read, CPU, lambda images: (), defects=defects)
    (batch,) = one.batches(9, order=range(5))
    assert batch.truth.known.tolist() == [True, True, False, False, True]
    assert batch.truth.labels.tolist() == [0, 0, 1, 1, 1]
    assert one.masked == [4]


def test_all_pictures_by_default_are_the_good_ones():
    (batch,) = data(3, 2).batches(9)
    assert batch.indices == (0, 1, 2)


def test_epochs_and_steps_count_what_an_epoch_has():
    trainer = LabelledStudentTrainer(setup(num_epochs=2))
    read, defects = pictures(9, 1)
    fit(trainer, read, defects=defects)
    assert [(epoch, len(rows)) for epoch, rows in trainer.seen] == [(0, 4)] * 2 + [(1, 4)] * 2
    shares = [truth.labels.mean().item() for _, truth in trainer.truths]
    assert sum(shares[:2]) == sum(shares[2:]) == 1


@pytest.mark.parametrize(
    ("trainer", "bad", "error", "words"),
    [
        (LabelledStudentTrainer, 0, DataError, "too, and there are none. Give them among the pict"),
        (
            Recording,
            2,
            SettingError,
            "`Recording` learns from good pictures alone; got 2 `defects`",
        ),
    ],
)
def test_defects_go_with_trainers_that_learn_from_them(trainer, bad, error, words):
    read, defects = pictures(3, bad)
    with pytest.raises(error, match=words):
        fit(trainer(setup()), read, defects=defects)


@pytest.mark.parametrize(
    ("defects", "words"),
    [
        ({7: None}, "names pictures by their numbers, 0 to 4; got 7"),
        ({-1: None}, "0 to 4; got -1"),
        ({3: np.ones((SIZE, 3), bool)}, "pictures' size, 16 x 16; that of picture 3 is 16 x 3"),
    ],
)
def test_defects_that_do_not_fit_the_pictures_are_refused(defects, words):
    with pytest.raises(SettingError, match=words):
        fit(LabelledStudentTrainer(setup()), pictures(3, 2)[0], defects=defects)


def test_defective_pictures_alone_are_refused():
    read, defects = pictures(0, 3)
    with pytest.raises(DataError, match="All 3 pictures are defective; .* needs good ones, too"):
        fit(LabelledStudentTrainer(setup()), read, defects=defects)


@pytest.fixture
def labelled():
    """A registered model that learns from labelled defects."""
    numbers = {"num_epochs": 1, "batch_size": 4, "img_size": SIZE, "normalize": False}
    ModelRegistry.register(
        "labelled-student", "labelled_student:LabelledStudentTrainer", {}, numbers
    )
    yield "labelled-student"
    ModelRegistry.unregister("labelled-student")


def write(folder, indices, *, defect=False, masks=None):
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        picture, mask = make_picture(index, size=SIZE, defect=defect)
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
        if masks is not None:
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{index:03d}.png")


@pytest.fixture
def parts(tmp_path):
    """Good parts, and two kinds of defective ones, of which one has masks."""
    root = tmp_path / "parts"
    write(root / "good", range(20))
    write(root / "dent", range(100, 110), defect=True, masks=root / "masks/dent")
    write(root / "crack", range(200, 205), defect=True)
    return root


def read_as(run):
    record = json.loads((run / "run.json").read_text())
    return {part["name"]: (part["pictures"], part["masks"]) for part in record["read"]["read"]}


def test_a_folder_lends_most_of_each_kind_of_defect(labelled, parts, tmp_path):
    told = train("folder", str(parts), labelled, supervised=True, output_dir=tmp_path / "run")
    assert read_as(told.run) == {
        "good to learn from": (16, 0),
        "good to test with": (4, 0),
        "dent to learn from": (8, 8),
        "dent": (2, 2),
        "crack to learn from": (4, 0),
        "crack": (1, 0),
    }
    truths = [truth for _, truth in LabelledStudentTrainer.truths]
    labels, known = (torch.cat([getattr(t, n) for t in truths]) for n in ("labels", "known"))
    assert (labels.sum(), len(labels), (~known).sum()) == (48, 96, 16)  # four times 12; of 4
    record = json.loads((told.run / "run.json").read_text())
    assert record["settings"]["supervised"]
    assert "--supervised" in record["command"]
    assert told.detector.config.calibration.num_images == 2  # good ones that are held out
    assert evaluate(told.run).metrics == told.metrics  # the very same test pictures


def test_a_model_that_learns_from_good_parts_alone_is_tested_on_the_same(
    student, labelled, parts, tmp_path
):
    runs = {
        name: train("folder", str(parts), name, supervised=True, output_dir=tmp_path / name)
        for name in (student, labelled)
    }
    scored = [
        [json.loads(line)["path"] for line in (one.run / "scores.jsonl").read_text().splitlines()]
        for one in runs.values()
    ]
    assert scored[0] == scored[1]
    words = "12 defective pictures to train on were left out: `linear-student` learns from"
    assert any(words in note for note in runs[student].notes)
    assert not any("to train on were left out" in note for note in runs[labelled].notes)


def test_a_bench_asks_for_them_before_its_first_run(student, labelled, parts, tmp_path, run_ad):
    models, output = [student, labelled], tmp_path / "bench"
    status, _, said = run_ad("bench", "folder", parts, ",".join(models), "--output", output)
    assert status == 1
    assert (
        f"error: No run was begun: `{labelled}` cannot do `folder parts`. `{labelled}` as" in said
    )
    assert "hands over none unless it is asked for" in said
    assert "hint: `--supervised` (" in said
    assert not output.exists()
    planned = partial(plan, ["folder"], [str(parts)], models, seeds=[0], output=output)
    jobs = planned(supervised=True)
    refuse_beforehand(jobs, here=True)
    assert [train_here(job, 1) for job in jobs] == [None, None]
    assert not {job.folder for job in jobs} & {job.folder for job in planned()}
    assert all("--supervised" in job.words() for job in jobs)


def test_defects_that_are_said_to_be_for_testing_are_not_lent(labelled, parts, tmp_path):
    write(parts / "test/dent", range(300, 303), defect=True)
    told = train("folder", str(parts), labelled, supervised=True, output_dir=tmp_path / "run")
    assert read_as(told.run) == {
        "good to learn from": (16, 0),
        "good to test with": (4, 0),
        "dent to learn from": (10, 10),
        "crack to learn from": (5, 0),
        "dent": (3, 0),
    }


def table(parts, *splits):
    """A table of the pictures; the splits are of dents, cracks are to test with."""
    lines = ["image,label,mask,split"]
    lines += [f"good/{n:03d}.png,good,,{'train' if n < 16 else 'test'}" for n in range(20)]
    lines += [
        f"dent/{100 + n}.png,bad,masks/dent/{100 + n}.png,{split}" for n, split in enumerate(splits)
    ]
    lines += [f"crack/{n}.png,bad,,test" for n in range(200, 205)]
    (parts / "parts.csv").write_text("\n".join(lines))
    return parts / "parts.csv"


def test_a_table_hands_over_what_it_says(labelled, parts, tmp_path):
    root = table(parts, "train", "train", "test")
    told = train("csv", "all", labelled, data_root=root, output_dir=tmp_path / "run")
    assert read_as(told.run)["defective to learn from"] == (2, 2)
    assert read_as(told.run)["defective"] == (6, 1)
    assert json.loads((told.run / "run.json").read_text())["settings"]["supervised"]


def test_a_table_with_defects_to_calibrate_with_is_told_of(labelled, parts, tmp_path):
    root = table(parts, "train", "validation")
    with pytest.warns(UserWarning, match="has 1 defective pictures of `all` to calibrate with"):
        train("csv", "all", labelled, data_root=root, output_dir=tmp_path / "run")


def test_a_model_without_supervision_leaves_a_tables_defects_out_as_ever(labelled, parts, tmp_path):
    root = table(parts, "train", "test")
    options = {"data_root": root, "model": {"supervised": False}}
    with pytest.warns(UserWarning, match="has 1 defective pictures of `all` to train or to cal"):
        told = train("csv", "all", labelled, output_dir=tmp_path / "run", **options)
    assert "defective to learn from" not in read_as(told.run)
    assert {truth for _, truth in LabelledStudentTrainer.truths} == {None}


def test_data_without_labelled_defects_are_refused_before_the_run_starts(
    labelled, parts, toy_root, tmp_path
):
    run = tmp_path / "run"
    with pytest.raises(
        SettingError,
        match="(?s)learns from labelled defective pictures, too, and the layout `mvtec` hands over "
        "none. `ksdd2`, .*`csv` bring them, and `folder` lends them with `--supervised`",
    ):
        train("mvtec", "toy", labelled, data_root=toy_root, output_dir=run)
    with pytest.raises(
        SettingError, match="hands over none unless it is asked for(.|\n)*hint: `--s"
    ):
        train("folder", str(parts), labelled, output_dir=run)
    with pytest.raises(DataError, match=r"parts\.csv` has none among those to train on"):
        train("csv", "all", labelled, data_root=table(parts, "test"), output_dir=run)
    with pytest.raises(SettingError, match="`supervised` has no meaning for the layout `mvtec`"):
        train("mvtec", "toy", labelled, data_root=toy_root, supervised=True, output_dir=run)
    assert not run.exists()


def test_copies_of_test_pictures_among_labelled_ones_are_told_of(labelled, parts, tmp_path):
    root = table(parts, "train", "test")
    (parts / "dent/101.png").write_bytes((parts / "dent/100.png").read_bytes())
    told = train("csv", "all", labelled, data_root=root, output_dir=tmp_path / "run")
    assert any("1 picture to test or calibrate with is a copy of" in note for note in told.notes)
    assert any("a copy of" in note for note in read_data_notes(told.run))  # for pages of many runs


def test_a_run_that_was_started_before_there_was_supervision_can_be_resumed(
    student, parts, tmp_path
):
    from small_learning import Interrupting

    from ad.core.errors import Interrupted

    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("folder", str(parts), student, output_dir=run, callbacks=[Interrupting(1)])
    record = json.loads((run / "run.json").read_text())
    del record["settings"]["supervised"]
    (run / "run.json").write_text(json.dumps(record))
    assert train("folder", str(parts), student, resume=run).metrics
