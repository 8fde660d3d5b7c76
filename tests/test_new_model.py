"""What `ad new-model` writes is a package that passes its checks, and the example's model."""

import json
import os
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

from ad.core import ModelRegistry
from ad.core.cli import main, new_model
from ad.core.errors import OutputError, SettingError
from ad.core.testing import check_model

EXAMPLE = Path(__file__).parents[1] / "examples/ad-example-plugin"


@pytest.fixture
def installed(tmp_path, monkeypatch, capsys):
    """A package that was made, as an editable install leaves it: its folder and entry points."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ad", "new-model", "edge-lamp", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    folder = tmp_path / json.loads(capsys.readouterr().out)["folder"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    told = folder / "ad_edge_lamp-0.1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: 0\n")
    points = project["entry-points"]["ad.models"]
    lines = [f"{name} = {value}" for name, value in points.items()]
    (told / "entry_points.txt").write_text("\n".join(["[ad.models]", *lines]) + "\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)  # of processes of the checks
    yield folder
    for name in [name for name in sys.modules if name.startswith("ad_edge_lamp")]:
        del sys.modules[name]


def test_what_is_written_passes_its_checks_and_tests(installed):
    assert ModelRegistry.get("edge-lamp").package == "ad-edge-lamp"
    check_model("edge-lamp")
    tests = runpy.run_path(str(installed / "tests/test_edge_lamp.py"))
    tests["test_mean_and_spread_are_those_of_the_pictures"]()
    assert "test_the_model_keeps_its_promises" in tests
    assert os.access(installed / ".ci/run", os.X_OK)
    assert (installed / "ad_edge_lamp/py.typed").is_file()
    texts = [path.read_text() for path in installed.rglob("*") if path.is_file()]
    assert not [text for text in texts if "@" in text.replace("@pytest", "")]
    with pytest.raises(SettingError, match="The name `edge-lamp` is taken"):
        new_model.write_package("edge-lamp", installed / "again")
    with pytest.raises(OutputError, match="is not empty"):
        new_model.write_package("other-lamp", installed)


def test_the_example_is_made_of_the_same(tmp_path):
    """So that there is one home for a first model, and docs/plugins.md shows it."""
    words = {**new_model.names_of("sprea"), "NAME": "spread", "MODULE": "spread"}
    words |= {"CLASS": "Spread", "CONSTANT": "SPREAD", "PACKAGE": "ad_example"}
    words["DISTRIBUTION"] = "ad-example-plugin"
    home = new_model.files("ad.core.cli") / "skeleton"
    text = {
        name: new_model.filled((home / f"{name}.txt").read_text(), words)
        for name in ("model.py", "catalogue.py", "test.py", "pyproject.toml")
    }
    assert text["model.py"] == (EXAMPLE / "ad_example/spread.py").read_text()
    assert text["catalogue.py"] == (EXAMPLE / "ad_example/catalogue.py").read_text()
    assert (EXAMPLE / "ad_example/py.typed").is_file()
    tests = (EXAMPLE / "tests/test_plugin.py").read_text()
    for function in text["test.py"].split("\n\n\n")[1:]:
        assert function.strip() in tests
    project = (EXAMPLE / "pyproject.toml").read_text().splitlines()
    others = [line for line in text["pyproject.toml"].splitlines() if line not in project]
    assert others == ['description = "Spread, a model for ad."']


@pytest.mark.parametrize("name", ["", "My-Model", "my_model", "1st", "a--b", "class", "-a", "a/b"])
def test_what_is_no_name_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(SettingError, match="small letters, digits and hyphens.*such as `my-model`"):
        new_model.write_package(name, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("MyModel", "my-model"),
        ("my_model", "my-model"),
        ("my model", "my-model"),
        ("kNN", "k-nn"),
        ("a--b", "a-b"),
    ],
)
def test_the_nearest_name_is_told(name, near):
    with pytest.raises(SettingError, match=rf"got '{name}'\. Did you mean `{near}`\?$"):
        new_model.names_of(name)


@pytest.mark.parametrize("name", ["", "class", "Class", "3d-net", "-", "\u00fcber"])
def test_no_name_is_told_where_none_is_near(name):
    with pytest.raises(SettingError, match=rf"got '{name}'\.$"):
        new_model.names_of(name)


@pytest.mark.parametrize("name", ["core", "memory", "patchcore", "catalogue"])
def test_names_of_this_projects_own_packages_are_taken(tmp_path, name):
    with pytest.raises(SettingError, match=f"The name `{name}` is taken"):
        new_model.write_package(name, tmp_path / "new")
