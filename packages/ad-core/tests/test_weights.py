"""Weights that were learnt elsewhere, and what is said of those that do not fit."""

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("timm", reason="pretrained backbones need timm, an extra of ad-core")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="comes with timm")

from ad.core import ModelRegistry, ModelSpec  # noqa: E402
from ad.core.errors import WeightsError  # noqa: E402
from ad.core.networks import backbones, stored  # noqa: E402
from ad.core.networks.backbones import FeatureExtractor  # noqa: E402
from ad.core.networks.weights import (  # noqa: E402
    file_in_weights_folder,
    fitting_weights,
    given_file,
    read_weights,
)
from ad.core.trainer import Setup  # noqa: E402

BACKBONE = "test_resnet"  # timm's smallest


def extractor(weights, layers=("layer1",), **changes):
    values = {"img_size": 32, "normalize": True, "weights": str(weights), **changes}
    return FeatureExtractor(BACKBONE, layers, setup=Setup(**values))


def state_of(one):
    return {key: tensor.contiguous() for key, tensor in one.net.state_dict().items()}


def fitting(state, **wanted):
    words = {"owner": "a thing", "if_missing": "Add it.", "if_other": "Change it."}
    return fitting_weights(state, wanted, "some.file", **words)


@pytest.mark.parametrize("place", ["file", "folder", "AD_WEIGHTS"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_backbone_is_what_its_file_says(place, dtype, tmp_path, monkeypatch):
    other = extractor("random", ("layer1", "layer2"), seed=5)  # with a layer more than is used
    state = {key: tensor.to(dtype) for key, tensor in state_of(other).items()}
    file = tmp_path / f"{other.name}.safetensors"
    save_file(state, file)
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path if place == "AD_WEIGHTS" else ""))
    one = extractor({"file": file, "folder": tmp_path, "AD_WEIGHTS": "auto"}[place])
    for key, tensor in state_of(one).items():
        assert tensor.is_floating_point() <= (tensor.dtype == torch.float32)
        assert torch.equal(tensor, state[key].to(tensor.dtype))


def test_a_file_that_does_not_fit_a_backbone_is_refused(tmp_path):
    file = tmp_path / "some.safetensors"
    words = "The weights file `.*some.safetensors` does not exist. `weights` must be .* `test_res"
    with pytest.raises(WeightsError, match=words):
        extractor(file)
    state = state_of(extractor("random"))
    first = next(iter(state))
    save_file({**state, first: torch.zeros(3)}, file)
    words = rf"`{first}` in `.*` has shape \(3,\); \(.*\) is needed. The file .* than `test_resnet"
    with pytest.raises(WeightsError, match=words):
        extractor(file)
    del state[first]
    save_file(state, file)
    words = rf"lacks the tensor `{first}` of `test_resnet.*`\. Use a file with all layers"
    with pytest.raises(WeightsError, match=words):
        extractor(file)


def test_what_is_wrong_is_said_once_with_what_to_do():
    like = torch.zeros(2)
    with pytest.raises(WeightsError, match=r"^`some.file` lacks the tensor `a` of a thing\. Add"):
        fitting({"b": like}, a=like, b=like)
    with pytest.raises(WeightsError, match="`a` of a thing, and 1 more of its 3. Add it.$"):
        fitting({"c": like}, a=like, b=like, c=like)
    # One that is there and differs tells more than one that is not.
    words = r"^`b` in `some.file` has shape \(3,\); \(2,\) is needed. Change it.$"
    with pytest.raises(WeightsError, match=words):
        fitting({"b": torch.zeros(3)}, a=like, b=like)
    assert list(fitting({"a": like.half(), "more": like}, a=like)) == ["a"]
    assert fitting({"a": like.half()}, a=like)["a"].dtype == torch.float32


def test_a_folder_stands_for_its_file_only_where_one_has_a_name(tmp_path):
    file = tmp_path / "net.safetensors"
    file.touch()
    said = {"whose": "the thing's", "allowed": "Any will do."}
    assert given_file(str(tmp_path), file.name, **said) == given_file(str(file), **said) == file
    with pytest.raises(WeightsError, match="^The thing's file `.*` does not exist. Any will do.$"):
        given_file(str(tmp_path), **said)


def test_the_weights_folder_has_a_file_or_not(tmp_path, monkeypatch):
    monkeypatch.delenv("AD_WEIGHTS", raising=False)
    assert file_in_weights_folder("a") is None
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path))
    assert file_in_weights_folder("a") is None
    (tmp_path / "a").touch()
    assert file_in_weights_folder("a") == tmp_path / "a"
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match="AD_WEIGHTS names `.*gone`, which is not a folder"):
        file_in_weights_folder("a")


def test_what_is_no_safetensors_file_is_not_read(tmp_path):
    file = tmp_path / "net.pth"
    file.write_text("hello, this is no tensor")
    with pytest.raises(WeightsError, match="`.*net.pth` is no readable safetensors file: "):
        read_weights(file)
    with pytest.raises(WeightsError, match="is no readable safetensors file: .*directory"):
        read_weights(tmp_path)
    torch.save({"weight": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="is a pickle, which can run code"):
        extractor(file)


def test_a_plain_name_is_looked_for_among_downloads_by_the_tag_that_timm_takes(monkeypatch):
    asked = []
    monkeypatch.setenv("AD_WEIGHTS", "")
    monkeypatch.setattr(backbones, "_hub_is_reachable", lambda: False)
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, _: asked.append(name)
    )
    monkeypatch.setattr(stored, "served", dict)  # of these others would be asked for, too
    for name, layer in (("vit_small_patch14_reg4_dinov2", "blocks.0"), ("resnet18", "layer1")):
        with pytest.raises(WeightsError, match="hub cannot be reached"):
            FeatureExtractor(name, (layer,), setup=Setup(img_size=28, normalize=True))
    assert asked == ["timm/vit_small_patch14_reg4_dinov2.lvd142m", "timm/resnet18.tv_in1k"]


def test_offline_the_file_is_named_and_what_runs_without_it(tmp_path, monkeypatch):
    train = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": True}
    for name, backbone in (("small", "resnet18"), ("large", "wide_resnet50_2")):
        monkeypatch.setitem(
            ModelRegistry._added, name, ModelSpec(name=name, trainer="x:X", train=train,
                                                  model={"backbone": backbone})
        )  # fmt: skip
    (tmp_path / "resnet18.tv_in1k.safetensors").touch()
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    monkeypatch.setattr(backbones, "_hub_is_reachable", lambda: False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(WeightsError) as caught:
        FeatureExtractor("wide_resnet50_2", ("layer1",), setup=Setup(img_size=32, normalize=True))
    first, address, put, held, bank, random = str(caught.value).splitlines()
    assert first.startswith("Pretrained weights of `wide_resnet50_2.tv_in1k` cannot be downloaded")
    assert address == (
        "Their file: https://mirror.example/timm/wide_resnet50_2.tv_in1k/resolve/main/"
        "model.safetensors"
    )
    assert "`wide_resnet50_2.tv_in1k.safetensors` into a folder" in put
    assert held.startswith("hint: AD_WEIGHTS holds `resnet18.tv_in1k.safetensors`, so that ")
    assert "`small`" in held
    assert "`large`" not in held
    assert "--set backbone=filter_bank --set layers=fine,coarse" in bank
    assert "--weights random" in random


def test_weights_that_are_no_files_of_timm_are_looked_for_by_their_own_names(tmp_path, monkeypatch):
    train = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": True}
    spec = ModelSpec(
        name="a", trainer="x:X", train=train, model={"backbone": "resnet18"}, weights=("a_teacher",)
    )
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path))
    assert stored.weights_of(spec) == {"a_teacher.safetensors": None}
    (tmp_path / "a_teacher.safetensors").touch()
    assert stored.weights_of(spec) == {"a_teacher.safetensors": tmp_path / "a_teacher.safetensors"}
    bank = ModelSpec(name="b", trainer="x:X", train=train, model={"backbone": "filter_bank"})
    assert stored.weights_of(bank) == {}
