"""Many pictures on a Ray cluster: an actor is killed, and nothing is lost or counted twice."""

import os
import sys

import pytest
from deadly import load
from grey_pictures import check, write_pictures
from tiny_export import make_export

from ad.runtime.errors import MissingExtraError, SettingError
from ad.runtime.many.predicting import predict_many


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_an_actor_that_is_killed_loses_nothing(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    export = make_export(tmp_path / "export").path
    names = [*(f"p{n:02d}" for n in range(20)), "z-once", "deadly"]
    levels = write_pictures(tmp_path / "p", names)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        given = {"executor": "ray", "workers": 2, "threads": 1, "load": load}
        result = predict_many(export, [tmp_path / "p"], output=tmp_path / "r.jsonl", **given)
        lines = check(result.output, levels, {"deadly"})
        assert [line["error"] for line in lines if line["error"]] == [
            "The process that scored this picture alone was killed, or ended by itself, while it "
            "did."
        ]
        assert (tmp_path / "p/z-once.png.was").exists()
        result = predict_many(
            export, [tmp_path / "p"], output=tmp_path / "r.jsonl", resume=True, **given
        )
        assert result.before == len(names)
        given["threads"] = 2
        with pytest.raises(SettingError, match="are more than the 2 cores of the Ray cluster"):
            predict_many(export, [tmp_path / "p"], output=tmp_path / "s.jsonl", **given)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_ray_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    export = make_export(tmp_path / "export").path
    write_pictures(tmp_path / "p", "a")
    with pytest.raises(MissingExtraError, match=r"Ray is not installed .*ad-runtime\[ray\]"):
        predict_many(export, [tmp_path / "p"], output=tmp_path / "r.jsonl", executor="ray")
    assert not (tmp_path / "r.jsonl").exists()
