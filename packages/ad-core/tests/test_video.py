"""Videos as sources of a run's prediction, and as files among pictures to learn from."""

import csv
import shutil

import pytest
from clips import WITHOUT_AV, coloured, write_clip
from report_pages import Page

from ad.core import load, recalibrate, train
from ad.core.errors import DataError
from ad.core.jobs.inspect import inspect


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    pytest.importorskip("av", reason=WITHOUT_AV)
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", coloured(9))


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train(
        "mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run", holdout=0.3
    ).run


def test_frames_score_as_arrays_and_are_named_in_tables_and_on_the_page(trained, clip, tmp_path):
    names = [f"a.mp4#t={k / 10:.3f}" for k in range(0, 9, 2)]
    out, maps = tmp_path / "out", tmp_path / "maps"
    result = inspect(trained, [clip], every=2, output=out, save_maps=maps)
    detector = load(trained)
    expected = [one.score for one in detector.predict([*coloured(9)[::2]])]
    assert [row.score for row in result.rows] == expected
    assert [one.score for one in detector.stream(clip, every="0.2s", batch_size=2)] == expected
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(clip.with_name(name)) for name in names]
    assert [row["heatmap"] for row in rows] == [
        f"heatmaps/{k + 1:04d}-a-t{k / 5:.3f}.jpg" for k in range(5)
    ]
    assert len([*maps.iterdir()]) == len([*(out / "heatmaps").iterdir()]) == 5
    shown = Page(result.report).data["gallery"]
    assert sorted(one["name"] for one in shown) == names


def test_the_command_refuses_every_where_there_is_no_video_before_anything_loads(run_ad, tmp_path):
    status, _, err = run_ad("predict", tmp_path / "none", tmp_path, "--every", "10")
    assert status == 1
    assert "`--every 10` is for videos" in err


def test_videos_among_pictures_to_learn_from_are_told(mean_picture, toy_root, tmp_path):
    shutil.copytree(toy_root / "toy/train/good", tmp_path / "parts/good")
    (tmp_path / "parts/good/line.mp4").write_bytes(b"x")
    result = train("folder", tmp_path / "parts", mean_picture, output_dir=tmp_path / "run")
    told = "1 file was left out of the data: 1 in `good` (videos: prediction takes those that are"
    assert any(note.startswith(told) for note in result.notes)
    shutil.rmtree(tmp_path / "parts/good")
    (tmp_path / "parts/good").mkdir()
    (tmp_path / "parts/good/line.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of `\.mp4`"):
        train("folder", tmp_path / "parts", mean_picture, output_dir=tmp_path / "other")
    with pytest.raises(DataError, match=r"no pictures .* that are not read: 1 of `\.mp4`"):
        recalibrate(tmp_path / "run", normals=tmp_path / "parts/good")
