"""Frames of videos: which ones, in which order, whole, and what is said where they are not."""

import gc
import itertools
import json
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from black_pictures import put
from clips import WITHOUT_AV, coloured, write_clip
from PIL import Image, ImageOps
from tiny_export import make_export

from ad.runtime import load
from ad.runtime.cli import main
from ad.runtime.errors import DataError, MissingExtraError, PictureError, SettingError
from ad.runtime.many.predicting import predict_many
from ad.runtime.numbered import numbered_names
from ad.runtime.pictures import reel
from ad.runtime.pictures.frames import Every, Frame, frame_named, is_frame
from ad.runtime.pictures.reading import read_picture, upright_size
from ad.runtime.sources import find_sources, named_sources
from ad.runtime.watch.watching import Watched


@pytest.fixture(scope="module")
def av():
    return pytest.importorskip("av", reason=WITHOUT_AV)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("video") / "export").path


@pytest.fixture(scope="module")
def runtime(export):
    return load(export, threads=1)


@pytest.fixture(scope="module")
def clip(av, tmp_path_factory):
    """A video of 23 pictures, 10 a second, and these."""
    pictures = coloured(23)
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, pictures, options={"movflags": "faststart"}), pictures


def read_all(frames):
    return np.stack([read_picture(frame) for frame in frames])


@pytest.mark.parametrize("kept", [1, 23])
def test_a_frame_scores_as_the_array_of_its_pixels(runtime, clip, monkeypatch, kept):
    monkeypatch.setattr(reel, "KEPT_BYTES", 0)
    monkeypatch.setattr(reel, "KEPT", kept)
    path, pictures = clip
    findings = []
    for finding in runtime.stream(path, batch_size=4):
        findings.append(finding)
        assert (read_picture(finding.path) == pictures[len(findings) - 1]).all()
    assert [str(one.path) for one in findings] == [f"{path}#t={k / 10:.3f}" for k in range(23)]
    assert [one.path.index for one in findings] == [*range(23)]
    assert {one.path.video for one in findings} == {path}
    assert [one.path.seconds for one in findings] == pytest.approx([k / 10 for k in range(23)])
    expected = runtime.predict([*pictures], batch_size=4)
    assert [one.score for one in findings] == [one.score for one in expected]
    assert len({one.score for one in findings}) > 5
    assert runtime.predict(findings[7].path)[0].score == findings[7].score


@pytest.mark.parametrize(("kept", "readers"), [(23, 1), (1, 2)])
def test_a_video_is_gone_through_once_or_followed_by_a_second_reader(
    clip, monkeypatch, kept, readers
):
    opened, decoded = [], []
    plain, upright = reel._open, reel._upright
    monkeypatch.setattr(reel, "_open", lambda video: opened.append(video) or plain(video))
    monkeypatch.setattr(reel, "_upright", lambda *one: decoded.append(one) or upright(*one))
    monkeypatch.setattr(reel, "KEPT_BYTES", 0)
    monkeypatch.setattr(reel, "KEPT", kept)
    frames = find_sources(clip[0], every=2)
    assert (len(frames), len(opened)) == (12, 1)
    for ahead, behind in itertools.zip_longest(frames[4:], frames[:-4]):
        if ahead is not None:
            read_picture(ahead)
        read_picture(behind)
    assert len(opened) == 1 + readers
    assert len(decoded) == len(frames) if kept == 23 else len(decoded) <= 2 * len(frames)


def test_threads_may_ask_in_any_order(clip, monkeypatch):
    monkeypatch.setattr(reel, "KEPT_BYTES", 0)
    monkeypatch.setattr(reel, "KEPT", 2)
    path, pictures = clip
    frames = find_sources(path)
    order = np.random.default_rng(0).permutation(23)
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda index: read_picture(frames[index]), order)]
    assert (np.stack(found) == pictures[order]).all()


def test_a_stream_that_is_forgotten_ends_whoever_collects_it(runtime, clip, monkeypatch):
    """Even a thread that decodes, while the others of that stream wait for the video."""
    forgotten, first, collected, upright = threading.Event(), iter("ab"), [], reel._upright

    def collecting(*frame):
        if next(first, None) is None:
            assert forgotten.wait(10)
            collected.append(gc.collect())
        return upright(*frame)

    def forget():
        findings = runtime.stream(clip[0], batch_size=2)
        next(findings)
        circle = [findings]
        circle.append(circle)

    monkeypatch.setattr(reel, "_upright", collecting)
    monkeypatch.setattr("ad.runtime.runtime.usable_threads", lambda: 3)
    gc.disable()
    try:
        forget()
        forgotten.set()
        for thread in threading.enumerate():
            if thread.name.startswith("decode"):
                thread.join(10)
                assert not thread.is_alive()
    finally:
        gc.enable()
    assert collected


def test_frames_come_in_the_order_in_which_they_are_shown(av, tmp_path):
    levels = np.random.default_rng(1).permutation(20) * 10 + 30
    pictures = np.broadcast_to(levels[:, None, None, None], (20, 16, 16, 3)).astype(np.uint8)
    path = write_clip(tmp_path / "a.mkv", pictures, codec="libx264")
    with av.open(str(path)) as file:
        stored = [one.pts for one in file.demux(video=0) if one.size]
    assert stored != sorted(stored)
    found = read_all(find_sources(path)).mean(axis=(1, 2, 3))
    assert np.abs(found - levels).max() < 4


@pytest.mark.parametrize(("typed", "index"), [("1", 10), ("1.7", 17), ("0", 0), ("0.30", 3)])
def test_a_time_may_be_typed_without_the_zeros_at_its_end(clip, typed, index):
    (found,) = find_sources(f"{clip[0]}#t={typed}")
    assert found.index == index


@pytest.mark.parametrize(
    ("typed", "read", "nearest"),
    [("99", "99.000", "2.200"), ("2.25", "2.250", "2.200"), ("0.34", "0.340", "0.300")],
)
def test_where_no_frame_is_the_error_says_how_long_the_video_is(clip, typed, read, nearest):
    path, pictures = clip
    assert len(pictures) == 23
    with pytest.raises(DataError) as error:
        find_sources(f"{path}#t={typed}")
    assert str(error.value) == (
        f"The video `{path}` has no picture at {read} s; the nearest is `{path}#t={nearest}`. It "
        "has 23 pictures, the last at 2.200 s."
    )


def test_a_frame_is_found_again_by_its_name(runtime, clip, tmp_path):
    path, pictures = clip
    (tmp_path / "l.txt").write_text(f"{path}#t=1.700\n{path}#t=0.000\n{path}#t=1.700000\n")
    given = named_sources([f"{path}#t=0.300"], listed=tmp_path / "l.txt")
    found = runtime.predict(given)
    assert [one.path.index for one in found] == [3, 17, 0, 17]
    assert [one.score for one in found] == [
        one.score for one in runtime.predict([*pictures[[3, 17, 0, 17]]])
    ]
    with pytest.raises(
        DataError, match=r"has no picture at 0\.340 s; the nearest is `.*#t=0\.300`"
    ):
        runtime.predict(f"{path}#t=0.340")
    close = find_sources(write_clip(tmp_path / "a.mkv", coloured(2)))
    close[1].seconds = 0.0001
    with pytest.raises(DataError, match=r"has 2 pictures at 0\.000 s.* the last at 0\.000 s\.$"):
        frame_named(tmp_path / "a.mkv#t=0.000", close)
    for name in ("none.mp4#t=0.000", "clip.mp4#t=1:30", "clip.mp4#t=", "clip.png#t=0.000"):
        with pytest.raises(DataError, match=r"^There is no picture or folder `.*#t="):
            runtime.predict(path.with_name(name))
    (tmp_path / "b.mp4").touch()
    (broken,) = runtime.predict(tmp_path / "b.mp4#t=0.000")
    assert "is empty (0 bytes)" in broken.error


def test_names_tell_frames_apart_that_follow_each_other_at_once(av, tmp_path):
    path = write_clip(tmp_path / "a.mkv", coloured(4), times=[0, 7, 100, 2104])
    assert [one.name for one in find_sources(path)] == [
        *("a.mkv#t=0.000", "a.mkv#t=0.007", "a.mkv#t=0.100", "a.mkv#t=2.104"),
    ]
    assert reel._places([Fraction(1, 3000), Fraction(1, 3001)]) == 9


@pytest.mark.parametrize(
    ("given", "every"),
    [
        (None, Every()),
        (10, Every(10)),
        (" 3 ", Every(3)),
        ("1s", Every(seconds=Fraction(1))),
        ("0.5s", Every(seconds=Fraction(1, 2))),
        ("40ms", Every(seconds=Fraction(1, 25))),
    ],
)
def test_every_counts_frames_or_has_a_unit(given, every):
    assert Every.of(given) == every


@pytest.mark.parametrize("given", [0, -1, 1.0, True, "", "1.5", "1 s", "s", "0s", "0.0ms", "1m"])
def test_every_that_could_mean_two_things_or_none_is_refused(given):
    with pytest.raises(SettingError, match=r"a whole number from 1 counts pictures .* has its uni"):
        Every.of(given)


def test_of_each_stretch_of_time_the_first_frame_is_taken():
    times = [Fraction(n, 100) for n in (0, 33, 99, 100, 101, 350, 399, 400, 1000)]
    assert Every(seconds=Fraction(1)).choose(times) == [0, 3, 5, 7, 8]
    assert Every(seconds=Fraction(1, 1000)).choose(times) == [*range(9)]
    assert Every(4).choose(times) == [0, 4, 8]


def test_every_in_seconds_goes_by_the_clock_and_not_by_the_mean_rate(runtime, tmp_path, av):
    path = write_clip(tmp_path / "a.mkv", coloured(6), times=[0, 10, 20, 1500, 1510, 3990])
    found = runtime.predict(path, every="1s")
    assert [one.path.index for one in found] == [0, 3, 5]


def test_every_without_a_video_is_refused(runtime, tmp_path):
    put(tmp_path, "a.png")
    with pytest.raises(SettingError, match=r"`--every 2` is for videos .* Videos in folders are n"):
        runtime.predict([tmp_path / "a.png", tmp_path], every=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_video_is_turned_as_it_says(av, tmp_path, orientation):
    if not hasattr(av.VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV writes no display matrix")
    # By Pillow from EXIF; the matrix says where the axes of the stored picture point to.
    one = 2**16
    matrices = [(1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1)]
    matrices += [(0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)]
    a, b, c, d = matrices[orientation - 1]
    pictures = coloured(1)
    image = Image.fromarray(pictures[0])
    image.getexif()[0x112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    turned = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 2**30]
    (frame,) = find_sources(write_clip(tmp_path / "a.mp4", pictures, turned=turned))
    assert (read_picture(frame) == expected).all()
    assert upright_size(frame) == expected.shape[1::-1]


def test_a_video_that_is_shown_askew_is_refused(av, tmp_path):
    if not hasattr(av.VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV writes no display matrix")
    turned = [56756, 32768, 0, -32768, 56756, 0, 0, 0, 2**30]  # by 30 degrees
    (frame,) = find_sources(write_clip(tmp_path / "a.mp4", coloured(1), turned=turned))
    with pytest.raises(PictureError, match=r"Picture 0 of the video .*, counted .* shown askew"):
        read_picture(frame)


def test_sixteen_bits_are_refused_since_nobody_says_how_many_were_filled(av, tmp_path):
    pictures = np.full((1, 16, 16), 4095, np.uint16)
    (frame,) = find_sources(write_clip(tmp_path / "a.mkv", pictures, codec="ffv1"))
    with pytest.raises(PictureError, match="is of `gray16le`, of which 16 bits are stored"):
        read_picture(frame)


def test_what_is_no_whole_video_is_a_row_with_its_error(runtime, clip, tmp_path, av):
    content = clip[0].read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (tmp_path / "half.mp4").write_bytes(content[: content.index(b"mdat") // 2])
    (tmp_path / "bare.mp4").write_bytes(content[: content.index(b"mdat") + 4])
    with av.open(str(tmp_path / "sound.mov"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=1024)
        frame.rate = 8000
        file.mux(stream.encode(frame))
    with av.open(str(tmp_path / "two.mkv"), "w") as file:
        streams = [file.add_stream("libx264rgb", rate=10) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 16, 16, "rgb24"
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
    other = write_clip(tmp_path / "other.mkv", coloured(2)).read_bytes()
    (tmp_path / "other.mkv").write_bytes(other.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XXX"))
    words = {
        "other.mkv": "is coded in a way that this FFmpeg does not know",
        "empty.mp4": "is empty (0 bytes)",
        "text.avi": "cannot be read (Invalid data",
        "list.mp4": "cannot be read (",
        "half.mp4": "It may be cut short, or no video",
        "bare.mp4": "cut short",
        "sound.mov": "holds no pictures that move",
        "two.mkv": "holds 2 streams of pictures, and it is not said which one is meant",
    }
    found = runtime.predict([tmp_path / name for name in words])
    assert [one.path for one in found] == [tmp_path / name for name in words]
    for finding, told in zip(found, words.values(), strict=True):
        assert finding.verdict == "error"
        assert told in finding.error
        assert str(finding.path) in finding.error


def test_a_video_that_was_cut_short_ends_with_an_error(runtime, clip, tmp_path):
    path, content = tmp_path / "cut.mp4", clip[0].read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    *whole, last = runtime.predict(path)
    assert whole[0].score is not None
    assert last.path == path
    assert "was cut short: it says that it holds 23 pictures, and holds " in last.error


def test_a_damaged_frame_costs_itself_and_what_is_coded_by_it(av, tmp_path):
    pictures = coloured(15)
    path = write_clip(tmp_path / "a.mkv", pictures)
    with av.open(str(path)) as file:
        packets = [one for one in file.demux(video=0) if one.size]
        broken = bytes(packets[7])
    content = path.read_bytes()
    at = content.index(broken) + len(broken) // 2
    path.write_bytes(
        content[:at] + bytes(b ^ 255 for b in content[at : at + 9]) + content[at + 9 :]
    )
    right = []
    for frame, picture in zip(find_sources(path), pictures, strict=True):
        try:
            right.append((read_picture(frame) == picture).all())
        except PictureError:
            right.append(None)
    assert right[7] is None
    assert False not in [*right[:7], *right[10:]]  # from the next frame on that stands by itself


def test_without_pyav_it_is_said_what_to_install(runtime, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    words = r"`.*a.mp4` is a video\. .*: pip install '\./packages/ad-runtime\[video\]'"
    with pytest.raises(MissingExtraError, match=words):
        runtime.predict(tmp_path / "a.mp4")
    with pytest.raises(MissingExtraError, match=words):
        named_sources([tmp_path / "a.mp4"])


def test_videos_in_folders_are_left_out_and_told(tmp_path, monkeypatch):
    put(tmp_path, "new/a.png")
    (tmp_path / "new/b.MP4").touch()
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/c.avi").touch()
    with pytest.warns(UserWarning, match=r"1 \(videos: prediction takes those that are named"):
        assert find_sources(tmp_path / "new") == [tmp_path / "new/a.png"]
    with pytest.raises(DataError, match=r"no pictures .*; 1 \(videos: .* are left out"):
        find_sources(tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"Of what `new/\*` matches, 1 \(videos"):
        assert named_sources(["new/*"]) == [Path("new/a.png")]
    with pytest.raises(DataError, match=r"1 are videos: let it end as they do, such as `\*\.mp4`"):
        named_sources(["clips/*"])
    monkeypatch.setitem(sys.modules, "av", object())
    assert named_sources(["clips/*.avi"]) == [Path("clips/c.avi")]


def test_a_video_where_a_picture_is_needed_says_how_to_make_some(tmp_path):
    (tmp_path / "a b.mp4").write_bytes(b"x")
    words = r"is a video, of which only prediction takes frames\. .*: ffmpeg -i '.*a b\.mp4' -vf"
    with pytest.raises(PictureError, match=words):
        read_picture(tmp_path / "a b.mp4")


def test_many_processes_take_no_video(export, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(SettingError, match=r"a.mp4` is a video, .* Leave `--workers`, .*, or give"):
        predict_many(export, [tmp_path / "a.mp4"], output=tmp_path / "o.jsonl")
    frame = Frame.of(tmp_path / "a.mp4", Image.new, 0, Fraction(1))
    for one in (frame, str(frame)):
        with pytest.raises(SettingError, match=r"a.mp4` is a video, "):
            predict_many(export, [one], output=tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


def test_watching_tells_of_videos_once(runtime, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.avi"):
        (tmp_path / "in" / name).touch()
    said = []
    with Watched(runtime, tmp_path / "in", tell=said.append) as watched:
        assert [*watched.lines(interval=0.01, once=True)] == []
    assert len(said) == 1
    assert "which are not watched" in said[0]


def test_what_is_derived_from_a_frame_is_a_path_like_any_other():
    frame = Frame.of(Path("clips/a.b.mp4"), Image.new, 4, Fraction(4, 10))
    assert is_frame(frame)
    assert frame == Path("clips/a.b.mp4#t=0.400")
    others = [frame.parent, frame.absolute(), frame / "x", pickle.loads(pickle.dumps(frame))]
    assert not any(map(is_frame, others))
    assert numbered_names([frame, Path("clips/c.png")], ".png") == [
        *("0001-a.b-t0.400.png", "0002-c.png"),
    ]


def test_the_command_takes_videos(export, clip, tmp_path, capsys):
    path, pictures = clip
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    arguments = [export, path, tmp_path / "a.png", "--every", "0.5s", "--json"]
    arguments += ["--heatmaps", tmp_path / "heat", "--output", tmp_path / "o.csv"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    names = [f"{path}#t={k / 2:.3f}" for k in range(5)]
    assert [one["path"] for one in found] == [*names, str(tmp_path / "a.png")]
    drawn = [Path(one["heatmap"]).name for one in found[:5]]
    assert [name[-15:] for name in drawn] == [f"clip-t{k / 2:.3f}.jpg" for k in range(5)]
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:6]] == names
