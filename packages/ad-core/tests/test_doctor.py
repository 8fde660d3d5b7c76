import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ad.core.cli import doctor

LINES = """\
import sys
sys.modules["timm"] = None  # as if it were not installed
from ad.core.cli import main
from ad.core.registry import ModelRegistry, ModelSpec
train = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False}
for name, trainer in {
    "fine": "ad.core.testing.mean_picture:MeanPictureTrainer",
    "needy": "needy:NeedyTrainer",
    "wrong": "wrong:WrongTrainer",
}.items():
    ModelRegistry.register(name, trainer, {}, train)
ModelRegistry._added["own"] = ModelSpec(
    name="own",
    trainer="ad.core.testing.mean_picture:MeanPictureTrainer",
    model={},
    train=train,
    weights=("own_teacher",),
)
for backbone in ("resnet18", "efficientnet_b0"):
    ModelRegistry._added[backbone] = ModelSpec(
        name=backbone,
        trainer="ad.core.testing.mean_picture:MeanPictureTrainer",
        model={"backbone": backbone},
        train=train,
    )
sys.argv = ["ad", "doctor", "--json"]
main()
"""


@pytest.mark.slow
def test_a_timm_without_torchvision_is_not_called_missing():
    pytest.importorskip("timm", reason="pretrained backbones need timm, an extra of ad-core")
    code = "import sys; sys.modules['torchvision'] = None; import ad.core.networks.of_timm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "need timm, which cannot be imported (" in done.stderr
    assert "torchvision" in done.stderr.splitlines()[-2]


def test_what_is_missing_is_no_failure_and_what_is_broken_is(tmp_path, monkeypatch):
    monkeypatch.setenv("AD_WEIGHTS", "")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "needy.py").write_text("import ad.core.networks.of_timm\n")
    (tmp_path / "wrong.py").write_text("raise RuntimeError('no good')\n")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{LINES}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    missing = {one["name"]: one["missing"] for one in found["models"]}
    assert missing["fine"] == []
    assert missing["own"] == ["own_teacher.safetensors"]  # which needs no timm
    needs_timm = ["Backbones other than plain ResNets need timm, which is not installed."]
    assert missing["needy"] == missing["efficientnet_b0"] == needs_timm
    assert missing["resnet18"] == ["resnet18.tv_in1k.safetensors"]
    broken = {one["name"]: one["error"] for one in found["broken"]}
    assert "no good" in broken["wrong"]
    assert not {"fine", "needy"} & broken.keys()
    assert found["machine"]["device"].startswith("cpu, ")
    assert found["machine"]["why"]
    assert found["packages"]["ad-core"]
    assert found["packages"]["torch"]


@pytest.fixture
def calm(monkeypatch):
    """Nothing of this machine's own is looked at."""
    for name in ("_machine", "_packages", "_extras", "_caches", "_models", "_check_datasets"):
        monkeypatch.setattr(doctor, name, lambda *_: {})
    monkeypatch.setattr(
        doctor, "_machine", lambda _: dict.fromkeys(["system", "python", "cores", "device", "why"])
    )


def test_a_folder_of_weights_that_is_none_is_told(run_ad, calm, tmp_path, monkeypatch):
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path))
    (tmp_path / "b.safetensors").touch()
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    status, out, _ = run_ad("doctor", "--json")
    assert status == 0
    weights = json.loads(out)["weights"]
    assert weights == {"folder": str(tmp_path), "files": ["a.safetensors", "b.safetensors"]}
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path / "no"))
    status, out, _ = run_ad("doctor")
    assert status == 1
    assert "which is no folder" in " ".join(out.split())


def test_models_are_listed_by_what_they_lack(run_ad, calm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    models = [{"name": f"model-{n}", "missing": ["w.safetensors"]} for n in range(9)]
    monkeypatch.setattr(doctor, "_models", lambda _: [{"name": "fine", "missing": []}, *models])
    status, out, err = run_ad("doctor")
    assert status == 0
    assert "Models that have all they need\n  fine\n" in out
    assert "Models that would be missing\n  w.safetensors\n    model-0, model-1, " in out
    assert max(map(len, out.splitlines())) <= 60
    assert "hint: weights of timm's networks are downloaded" in err


def test_what_an_extra_lacks_is_named(monkeypatch):
    needs = {
        "ad-core": ["torch>=2", "nothing-like-it>=1; extra == 'far'", 'numpy; extra == "near"'],
        "ad-core-like": ["ad-core[timm]~=0.1"],
        "another": ["numpy"],
    }
    monkeypatch.setattr(doctor, "requires", needs.get)
    monkeypatch.setattr(
        doctor,
        "distributions",
        lambda: [SimpleNamespace(metadata={"Name": name}) for name in needs],
    )
    assert doctor._ours() == ["ad-core", "ad-core-like"]
    assert doctor._extras() == {"ad-core[far]": ["nothing-like-it"]}
    assert set(doctor._packages()) == {"ad-core", "ad-core-like", "torch"}
    assert doctor._packages()["ad-core-like"] == "missing"
