"""What a reader of figures side by side is told, of runs made up so that it is plain."""

from ad.core.report.caveats import caveats
from ad.core.report.finished import Finished
from ad.core.report.standings import columns_of, rows_of
from ad.core.saved.record import Costs, RunLog, read_data_notes


def run(model="m", category="a", seed=0, *, notes=(), versions=(), cores=2, **given):
    settings = {"dataset": "d", "model": model, "category": category, "seed": seed, "options": {}}
    record = {"settings": settings, "device": "cpu", "precision": "fp32", "threads": 1, **given}
    record |= {"machine": {"cores": cores}, "versions": {"torch": "2.1", **dict(versions)}}
    return Finished(
        folder=None,
        record=record,
        metrics={"metrics": {}, "categories": {category: {"image_auroc": 0.5}}},
        costs=Costs(None, None, None, resumed=False),
        white_level=None,
        calibration=None,
        scored={},
        data_notes=tuple(notes),
    )


def told(*runs):
    return caveats(runs, rows_of(runs), columns_of(runs))


def test_of_runs_that_were_made_alike_nothing_is_told():
    """What only some models need, and a model's own precision, are no difference."""
    assert told(run(), run(seed=1)) == []
    assert told(run(versions={"faiss": "1"}), run("n", precision="bf16")) == []


def test_runs_of_other_versions_machines_or_precisions_are_counted():
    """As a bench has them that was begun before torch was renewed, or on another machine."""
    (note,) = told(run(), run(seed=1), run(seed=2, versions={"torch": "2.2"}))
    assert note == (
        "Not all runs were made alike: torch 2.1 (2), 2.2 (1). Their figures may differ by that, "
        "and their times. To have them alike, do all again into another folder."
    )
    (note,) = told(run(cores=8), run(seed=1, device="cuda:0", threads=4, precision="bf16"))
    assert "cores 8 (1), 2 (1); device cpu (1), cuda:0 (1); threads 1 (1), 4 (1); " in note
    assert "precision of m fp32 (1), bf16 (1)." in note


def test_what_is_odd_about_the_pictures_is_told_once_for_each_category():
    copies = "2 pictures to test with are copies of pictures to learn from."
    runs = [run(model, "a", seed, notes=[copies]) for model in "mn" for seed in range(2)]
    assert told(*runs, run("m", "b")) == [f"d a: {copies}"]
    many = told(*(run(category=f"{place:02}", notes=["x"]) for place in range(12)))
    assert many[:9] == [f"d {place:02}: x" for place in range(9)]
    assert many[9:] == ["3 more notes on the data are in the runs' reports."]


def test_the_notes_are_those_with_which_a_run_began_last(tmp_path):
    assert read_data_notes(tmp_path) == []
    log = RunLog(tmp_path / "log.jsonl")
    log.write("start", test=3)  # of an older version
    assert read_data_notes(tmp_path) == []
    log.write("resume", notes=["odd"])
    log.write("saved", notes=["of learning"])
    assert read_data_notes(tmp_path) == ["odd"]
