"""ResNets of our own: against timm's, to the last bit."""

import hashlib
import http.server
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file

from ad.core.devices import in_precision
from ad.core.errors import SettingError
from ad.core.networks import backbones, stored
from ad.core.networks.backbones import FROM_MODEL_FILE, FeatureExtractor, fresh_network
from ad.core.networks.resnets import PLAIN_RESNETS, BasicBlock, Bottleneck, ResNetPlan
from ad.core.trainer import Setup

ALL = ("act1", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason="what is compared with is timm's")


def plan(name="resnet18", layers=("layer1", "layer2")):
    return ResNetPlan(f"{name}.tv_in1k", layers)


def same(one, other):
    assert list(one) == list(other)  # the order, too, in which files have them
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "wide_resnet50_2"])
def test_a_seed_gives_timms_weights_and_these_timms_maps(timm, name):
    """Basic blocks and bottlenecks, plain and wide; deeper ones differ in the number of blocks."""
    some = plan(name, ALL)
    ours = some.random(3)
    torch.manual_seed(3)
    theirs = timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3, 4))
    same(ours.state_dict(), theirs.state_dict())
    assert some.channels == tuple(theirs.feature_info.channels())
    assert some.strides == tuple(theirs.feature_info.reduction())
    generator = torch.Generator().manual_seed(0)
    for module in ours.modules():  # at the start the last norm of a block lets nothing through
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.1, 0.5, generator=generator)
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 64, 64, generator=generator)
    for one in (ours, theirs):
        one.eval().to(memory_format=torch.channels_last)
    for precision in ("fp32", "bf16"):
        # Gradients could be asked for, so that it goes layer by layer: see `test_fused`.
        with in_precision(precision, images.device):
            for our, their in zip(ours(images), theirs(images), strict=True):
                assert torch.equal(our, their)
                assert our.stride() == their.stride()


@pytest.mark.parametrize("name", sorted(PLAIN_RESNETS))
def test_what_is_known_of_each_is_what_timm_knows(timm, name):
    with torch.device("meta"):
        theirs = timm.create_model(name, features_only=True, out_indices=(1, 4))
    some = plan(name, ("layer1", "layer4"))
    assert some.blank().state_dict().keys() == theirs.state_dict().keys()
    assert some.channels == tuple(theirs.feature_info.channels())
    of_timm = pytest.importorskip("ad.core.networks.of_timm")
    assert stored.timm_name(name) == of_timm.full_name(name) == f"{name}.tv_in1k"
    for tagged in timm.list_pretrained(f"{name}.*"):
        assert of_timm.repository(tagged) == f"timm/{tagged}"


def test_students_learn_in_timms_steps(timm):
    """The gradients and what batch norms count, of weights that begin as timm's do not."""
    ours = fresh_network("resnet18", ("layer1", "layer2"), seed=0).train()
    theirs = timm.create_model("resnet18", features_only=True, out_indices=(1, 2)).train()
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for one in (ours, theirs.to(memory_format=torch.channels_last)):
        sum(map_.square().mean() for map_ in one(images)).backward()
    same(ours.state_dict(), theirs.state_dict())
    assert ours.bn1.num_batches_tracked == 1
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(our.grad, their.grad)
    starts = [m.last_norm.weight for m in ours.modules() if isinstance(m, BasicBlock | Bottleneck)]
    assert all(weight.all() for weight in starts)


def test_only_what_is_used_is_built_and_nothing_is_drawn_for_weights_that_come():
    names = [name for name, _ in plan(layers=("layer1",)).random(0).named_children()]
    assert names == ["conv1", "bn1", "act1", "maxpool", "layer1"]
    before = torch.get_rng_state()
    blank = plan().blank().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    plan().random(7)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(t.any() for key, t in blank.items() if key.endswith("num_batches_tracked"))


def test_layers_that_it_does_not_have_are_refused():
    words = "`layers` of backbone `resnet18.tv_in1k` must be some of `act1`, `layer1`, .*`layer5`"
    with pytest.raises(SettingError, match=words):
        plan(layers=("layer1", "layer5"))
    with pytest.raises(SettingError, match="must go from shallow to deep, each once; got layer2, "):
        plan(layers=("layer2", "layer1"))


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as serves one file, and says what was asked for."""

    protocol_version = "HTTP/1.1"
    content = b""
    asked: list[str] = []

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()
        self.wfile.write(self.content)

    def answer(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_weights_are_downloaded_once_without_timm(tmp_path, monkeypatch):
    """From a hub on this machine, in a process of its own: the client reads its folders once."""
    pytest.importorskip("huggingface_hub", reason="what downloads comes with timm")
    state = plan().random(5).state_dict()
    file = tmp_path / "made.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    monkeypatch.setattr(Hub, "content", file.read_bytes())
    monkeypatch.setattr(Hub, "asked", [])
    code = """
import sys
sys.modules["timm"] = sys.modules["torchvision"] = None  # importing them fails
import torch
from safetensors.torch import load_file
from ad.core.networks import FeatureExtractor
from ad.core.trainer import Setup
setup = Setup(img_size=32, normalize=True)
for _ in range(2):  # of which the second finds what the first has left
    net = FeatureExtractor("resnet18", ("layer1", "layer2"), setup=setup).net
    for key, tensor in load_file(sys.argv[1]).items():
        assert torch.equal(tensor, net.state_dict()[key]), key
"""
    for name in ("AD_WEIGHTS", "HTTP_PROXY", "http_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        command = [sys.executable, "-c", code, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        hub.shutdown()
    assert done.returncode == 0, done.stderr
    asked = [path for path in Hub.asked if not path.startswith("/api/")]  # of the client's own
    wanted = "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
    assert asked == [wanted, wanted]  # how large it is, and the file


def test_to_predict_it_needs_no_timm_and_nothing_that_compiles():
    code = f"""
import sys
import torch
before = {{*sys.modules}}
from ad.core.networks import FeatureExtractor
from ad.core.trainer import Setup
for backbone in ("resnet18", "wide_resnet50_2"):
    setup = Setup(img_size=32, normalize=True, weights={FROM_MODEL_FILE!r})
    FeatureExtractor(backbone, ("layer1", "layer2"), setup=setup)(torch.rand(1, 3, 32, 32))
heavy = {{"timm", "torchvision", "torch._dynamo", "sympy", "scipy", "huggingface_hub"}}
print(heavy & {{*sys.modules}} - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_a_file_that_lacks_the_count_of_steps_leaves_it_at_zero(tmp_path):
    state = plan().random(5).state_dict()
    kept = {k: t.contiguous() for k, t in state.items() if not k.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "resnet18.tv_in1k.safetensors")
    setup = Setup(img_size=32, normalize=True, weights=str(tmp_path))
    net = FeatureExtractor("resnet18", ("layer1", "layer2"), setup=setup).net
    same(net.state_dict(), state)
    assert backbones.is_plain_resnet("resnet18.a1_in1k")
    assert not backbones.is_plain_resnet("resnet18d")
