"""The examples for Ray work, as far as they are ours: Ray Serve and Ray Data are not installed."""

import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tiny_export import make_export

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("ray") / "export").path


def test_a_copy_under_ray_serve_answers_as_the_server_does(export, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    given = {}

    def ingress(build):
        given["build"] = build
        return lambda cls: cls

    def deployment(**options):
        given["options"] = options
        return lambda cls: types.SimpleNamespace(bind=lambda: cls)

    ray = types.ModuleType("ray")
    ray.serve = types.SimpleNamespace(ingress=ingress, deployment=deployment)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("AD_EXPORTS", str(export))
    made = runpy.run_path(str(EXAMPLES / "ray_serve.py"))
    assert made["deployment"].__name__ == "Server"
    with testclient.TestClient(given["build"]()) as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v2/models/bright").json()["name"] == "bright"


def test_bytes_of_an_object_store_are_decoded_and_scored(export, tmp_path):
    from PIL import Image

    for name, level in (("a", 51), ("b", 204)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}.png")
    score = runpy.run_path(str(EXAMPLES / "ray_data.py"))["Score"](str(export))
    contents = [(tmp_path / f"{name}.png").read_bytes() for name in "ab"]
    found = score({"path": np.array(["a", "b", "c"]), "bytes": np.array([*contents, b"x"], object)})
    np.testing.assert_allclose(found["score"], [0.2, 0.8, np.nan], rtol=1e-6)
    assert [*found["verdict"]] == ["good", "defective", "error"]
    assert found["error"][:2].tolist() == ["", ""]
    assert found["error"][2]
