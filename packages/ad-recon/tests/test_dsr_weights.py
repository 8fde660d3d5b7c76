"""Where DSR's quantiser comes from: files of its own, of trained detectors, of the authors."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_dsr import (
    SIZE,
    images,
    noise,
    other_quantizer,
    pictures,
    quantizer_file,
    trained,
    trainer,
)

from ad.core import FROM_MODEL_FILE, fit
from ad.core.errors import WeightsError
from ad.core.saved.files import read_model, save_model
from ad.core.saved.loading import load_tensors
from ad.recon.dsr.vq import VqModel
from ad.recon.dsr.weights import load_quantizer

# As they are in the authors' checkpoint, with the shapes of the small model.
AUTHORS = {
    "_encoder_t._conv_1.weight": (8, 8, 4, 4),
    "_encoder_t._conv_1.bias": (8,),
    "_encoder_t._conv_2.weight": (8, 8, 3, 3),
    "_encoder_t._conv_2.bias": (8,),
    "_encoder_t._residual_stack._layers.0._block.1.weight": (4, 8, 3, 3),
    "_encoder_t._residual_stack._layers.0._block.3.weight": (8, 4, 1, 1),
    "_encoder_t._residual_stack._layers.1._block.1.weight": (4, 8, 3, 3),
    "_encoder_t._residual_stack._layers.1._block.3.weight": (8, 4, 1, 1),
    "_encoder_b._conv_1.weight": (4, 3, 4, 4),
    "_encoder_b._conv_1.bias": (4,),
    "_encoder_b._conv_2.weight": (8, 4, 4, 4),
    "_encoder_b._conv_2.bias": (8,),
    "_encoder_b._conv_3.weight": (8, 8, 3, 3),
    "_encoder_b._conv_3.bias": (8,),
    "_encoder_b._residual_stack._layers.0._block.1.weight": (4, 8, 3, 3),
    "_encoder_b._residual_stack._layers.0._block.3.weight": (8, 4, 1, 1),
    "_encoder_b._residual_stack._layers.1._block.1.weight": (4, 8, 3, 3),
    "_encoder_b._residual_stack._layers.1._block.3.weight": (8, 4, 1, 1),
    "_pre_vq_conv_bot.weight": (8, 16, 1, 1),
    "_pre_vq_conv_bot.bias": (8,),
    "_pre_vq_conv_top.weight": (8, 8, 1, 1),
    "_pre_vq_conv_top.bias": (8,),
    "_vq_vae_top._ema_w": (32, 8),
    "_vq_vae_top._ema_cluster_size": (32,),
    "_vq_vae_top._embedding.weight": (32, 8),
    "_vq_vae_bot._ema_w": (32, 8),
    "_vq_vae_bot._ema_cluster_size": (32,),
    "_vq_vae_bot._embedding.weight": (32, 8),
    "_decoder_b._conv_1.weight": (8, 16, 3, 3),
    "_decoder_b._conv_1.bias": (8,),
    "_decoder_b._residual_stack._layers.0._block.1.weight": (4, 8, 3, 3),
    "_decoder_b._residual_stack._layers.0._block.3.weight": (8, 4, 1, 1),
    "_decoder_b._residual_stack._layers.1._block.1.weight": (4, 8, 3, 3),
    "_decoder_b._residual_stack._layers.1._block.3.weight": (8, 4, 1, 1),
    "_decoder_b._conv_trans_1.weight": (8, 4, 4, 4),
    "_decoder_b._conv_trans_1.bias": (4,),
    "_decoder_b._conv_trans_2.weight": (4, 3, 4, 4),
    "_decoder_b._conv_trans_2.bias": (3,),
    "upsample_t.weight": (8, 8, 4, 4),
    "upsample_t.bias": (8,),
}


def authors_model(state, images):
    """Features, codes and the rebuilt picture, written out with the authors' names."""

    def conv(name, x, **options):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def up(name, x):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)

    def stack(name, x):
        for layer in range(2):
            block = f"{name}._residual_stack._layers.{layer}._block"
            x = x.relu()
            x = x + conv(f"{block}.3", conv(f"{block}.1", x, padding=1).relu())
        return x.relu()

    def quantized(name, z):
        codes = state[f"{name}._embedding.weight"]
        rows = z.permute(0, 2, 3, 1)
        found = (rows[..., None, :] - codes).square().sum(-1).argmin(-1)
        return codes[found].permute(0, 3, 1, 2)

    fine = conv("_encoder_b._conv_1", images, stride=2, padding=1).relu()
    fine = conv("_encoder_b._conv_2", fine, stride=2, padding=1).relu()
    fine = stack("_encoder_b", conv("_encoder_b._conv_3", fine, padding=1))
    coarse = conv("_encoder_t._conv_1", fine, stride=2, padding=1).relu()
    coarse = stack("_encoder_t", conv("_encoder_t._conv_2", coarse, padding=1).relu())
    lo = quantized("_vq_vae_top", conv("_pre_vq_conv_top", coarse))
    risen = up("upsample_t", lo)
    hi = quantized("_vq_vae_bot", conv("_pre_vq_conv_bot", torch.cat([fine, risen], 1)))
    x = stack("_decoder_b", conv("_decoder_b._conv_1", torch.cat([risen, hi], 1), padding=1))
    return lo, hi, up("_decoder_b._conv_trans_2", up("_decoder_b._conv_trans_1", x).relu())


def test_the_authors_state_is_read_and_given_pictures_in_blue_green_red(tmp_path):
    state = {
        name: 0.3 * noise(*shape, seed=number)
        for number, (name, shape) in enumerate(AUTHORS.items())
    }
    model = VqModel(8, 32, 4)
    load_quantizer(model, quantizer_file(tmp_path / "vq.safetensors", state))
    some = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    double = {name: tensor.double() for name, tensor in state.items()}
    lo, hi, rebuilt = authors_model(double, some.flip(1).double())
    with torch.no_grad():
        codes = model.encode(some)
        torch.testing.assert_close(codes.lo.double(), lo, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(codes.hi.double(), hi, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.decode(codes).double(), rebuilt.flip(1), rtol=1e-4, atol=1e-4
        )


def test_a_quantiser_is_read_from_its_own_file_and_from_a_trained_detectors(tmp_path):
    theirs = other_quantizer()
    alone = quantizer_file(tmp_path / "alone.safetensors", theirs.state_dict())
    detector = trained()
    detector.vq.load_state_dict(theirs.state_dict())
    save_model(tmp_path / "model", detector, {})
    half = quantizer_file(
        tmp_path / "half.safetensors", {n: t.half() for n, t in theirs.state_dict().items()}
    )
    for file in (alone, tmp_path / "model" / "model.safetensors", half):
        found = trainer({"vq_weights": str(file), "vq_steps": None}).detector.vq.state_dict()
        for name, tensor in theirs.state_dict().items():
            expected = tensor.half().float() if file == half else tensor
            assert torch.equal(found[name], expected), name


def test_a_given_quantiser_is_not_learnt_and_takes_no_steps(tmp_path):
    theirs = other_quantizer().state_dict()
    file = quantizer_file(tmp_path / "vq.safetensors", theirs)
    one = trainer({"vq_weights": str(file), "vq_steps": None}, num_steps=4)
    assert one.num_steps(5) == 4
    assert one.phases_of(4) == (range(0), range(3), range(3, 4))
    fit(one, pictures())
    after = one.detector.vq.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in theirs.items())
    assert list(one.modules()) == ["detector"]


@pytest.mark.parametrize("start", [b"PK\x03\x04archive", b"\x80\x02pickle"])
def test_a_pickle_is_refused_with_the_way_out(start, tmp_path):
    file = tmp_path / "vq_model_pretrained_128_4096.pckl"
    file.write_bytes(start)
    with pytest.raises(WeightsError, match="is a pickle, which can run code") as caught:
        trainer({"vq_weights": str(file), "vq_steps": None})
    assert "weights_only=True" in str(caught.value)
    assert "vq_model_pretrained_128_4096.safetensors" in str(caught.value)


def test_the_way_out_of_a_pickle_works(tmp_path, monkeypatch):
    state = {name: noise(*shape) for name, shape in AUTHORS.items()}
    state["_vq_vae_top._ema_w"] = torch.nn.Parameter(state["_vq_vae_top._ema_w"])
    file = tmp_path / "vq.pckl"
    torch.save(state, file)
    with pytest.raises(WeightsError) as caught:
        trainer({"vq_weights": str(file), "vq_steps": None})
    program = str(caught.value).split('python -c "')[1].removesuffix('"')
    exec(compile(program, "hint", "exec"), {})  # what the hint says
    load_quantizer(VqModel(8, 32, 4), tmp_path / "vq.safetensors")


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    def build(file, **options):
        return trainer({"vq_weights": str(file), "vq_steps": None, **options})

    with pytest.raises(WeightsError, match=r"file `.*gone.safetensors` does not exist"):
        build(tmp_path / "gone.safetensors")
    (tmp_path / "text").write_text("hello, this is no tensor")
    with pytest.raises(WeightsError, match="is no readable safetensors file"):
        build(tmp_path / "text")
    state = other_quantizer().state_dict()
    missing = {name: tensor for name, tensor in state.items() if name != "up.weight"}
    with pytest.raises(WeightsError, match="lacks the tensor `up.weight` of DSR's quantiser"):
        build(quantizer_file(tmp_path / "missing", missing))
    with pytest.raises(WeightsError, match="lacks the tensor `encoder_hi.0.weight`"):
        build(quantizer_file(tmp_path / "other", {"layer.weight": torch.zeros(2)}))
    file = quantizer_file(tmp_path / "whole", state)
    words = r"`quantizer_lo.codes` in .* has shape \(32, 8\); \(16, 8\) is needed. Set `embedding"
    with pytest.raises(WeightsError, match=words):
        build(file, num_embeddings=16)


def test_what_else_is_learnt_from_is_known_by_its_content(tmp_path):
    assert trainer().inputs == {}
    file = quantizer_file(tmp_path / "vq.safetensors", other_quantizer().state_dict())
    given = trainer({"vq_weights": str(file), "vq_steps": None}).inputs
    assert given == {"vq_weights": hashlib.sha256(file.read_bytes()).hexdigest()}
    folder = tmp_path / "textures"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    one = trainer({"textures": str(folder)}).inputs
    Image.new("RGB", (8, 8)).save(folder / "b.png")
    two = trainer({"textures": str(folder)}).inputs
    assert one.keys() == two.keys() == {"textures"}
    assert one != two


def test_a_saved_one_loads_without_its_inputs_and_scores_the_same(tmp_path):
    one = trainer(num_steps=2)
    fit(one, pictures())
    save_model(tmp_path / "model", one.detector, {})
    gone = {"vq_weights": "gone.safetensors", "vq_steps": None}
    for options in ({"textures": "gone"}, gone):
        blank = trainer(options, weights=FROM_MODEL_FILE).detector
        load_tensors(blank, read_model(tmp_path / "model")[0], "model")
        with torch.inference_mode():
            assert torch.equal(blank(images(2)).map, one.detector(images(2)).map)
