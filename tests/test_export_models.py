"""Every kind of detector becomes an ONNX file that scores as it does, for any number of pictures.

That each model can be traced for any number of pictures is among the promises of
`tests/test_conformance.py`; here each class of detectors is written and run, once.
"""

import os
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch

from ad.core import ModelRegistry
from ad.core.data.batches import to_device
from ad.core.exporting.formats import write_files
from ad.core.exporting.tracing import trace
from ad.core.registry import MODELS
from ad.core.testing.conformance import IMG_SIZE
from ad.core.testing.subject import Model, predict
from ad.runtime.config import Input

# The cheapest of each class, smaller still where its options allow it.
CHEAP = {
    "autoencoder": {},
    "cfa-resnet18": {},
    "cflow-resnet18": {},
    "dfkde": {"backbone": "resnet18", "layers": ["layer3"]},
    "dfm-resnet18": {},
    "dinomaly-base-224": {},
    "efficientad-small": {},
    "fastflow-resnet18": {"flow_steps": 2},
    "ganomaly": {},
    "padim-resnet18": {},
    "patchcore-resnet18": {},
    "simplenet-resnet18": {},
    "stfpm-resnet18": {},
    "supersimplenet-resnet18": {},
    "uflow-resnet18": {},
}
# Ten to forty seconds of a processor each: run with AD_EVERY_EXPORT=1.
EXPENSIVE = {
    "csflow": {"n_coupling_blocks": 1},
    "draem": {},
    "dsr": {},
    "msflow-resnet18": {},
    "reverse-distillation-resnet18": {},
    "uninet-resnet18": {},
}
BOTH = CHEAP | EXPENSIVE
ELSEWHERE = {"fre-resnet18"}  # in test_export.py, as a whole run
asked = pytest.mark.skipif(
    not os.environ.get("AD_EVERY_EXPORT"), reason="takes long: run with AD_EVERY_EXPORT=1"
)


def small(name):
    spec = ModelRegistry.get(name)
    how = {"img_size": IMG_SIZE, "options": {}, **spec.check}
    options = {**how["options"], **BOTH.get(name, {})}
    return Model(spec, img_size=how["img_size"], options=options, num_epochs=1)


@pytest.mark.parametrize(
    "name", [*CHEAP, *(pytest.param(one, marks=(pytest.mark.slow, asked)) for one in EXPENSIVE)]
)
def test_the_file_scores_as_the_detector_does(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = small(name)
    detector = model.learn(1)
    traced = trace(detector, name, model.framing.size, Input())
    files = write_files(traced, "onnx", tmp_path)
    assert traced.input.max_batch == 64
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        files["model.onnx"], options, providers=["CPUExecutionProvider"]
    )
    (batch,) = model.framing.pictures([*model.fresh[:2], model.bad[0]]).batches(3)
    whole = predict(detector, to_device(batch.pictures, torch.device("cpu")))
    for count in (1, 2, 3):
        outputs = session.run(None, {"pictures": batch.pictures[:count].numpy()})
        assert len(outputs) == 1 + detector.localises
        for found, expected in zip(outputs, whole, strict=False):
            largest = float(expected.abs().max())
            gap = np.abs(found - expected[:count].numpy())
            # The exporter's own noise is 2e-5 of the largest at most; of a map that jumps, most.
            within = (gap <= 1e-4 * largest).mean()
            assert within >= (0.999 if detector.map_jumps and expected is whole.map else 1)


def test_each_trainer_s_detector_is_among_them():
    def trainer(name):
        return ModelRegistry.get(name).trainer

    installed = {trainer(point.name) for point in entry_points(group=MODELS)}
    assert installed == {trainer(name) for name in {*BOTH, *ELSEWHERE}}
