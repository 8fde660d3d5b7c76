"""Visual anomaly detection: learn from pictures of good parts, find the bad ones, show where.

```python
from ad.core import load, train

result = train("folder", "./parts", "patchcore")
print(result.metrics["image_auroc"], result.threshold)
for finding in load(result.run).predict("./new_parts"):
    print(finding.path, finding.score, finding.anomalous)
```

Names are imported when they are first used: `import ad.core` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ad.core.callbacks import Callback as Callback
    from ad.core.callbacks import LoopState as LoopState
    from ad.core.data.samples import DatasetSpec as DatasetSpec
    from ad.core.data.samples import Sample as Sample
    from ad.core.detector import Detector as Detector
    from ad.core.detector import Prediction as Prediction
    from ad.core.errors import AdError as AdError
    from ad.core.framing import Sides as Sides
    from ad.core.framing import Size as Size
    from ad.core.framing import size_of as size_of
    from ad.core.jobs.evaluate import evaluate as evaluate
    from ad.core.jobs.recalibrate import recalibrate as recalibrate
    from ad.core.jobs.report import write_report as write_report
    from ad.core.jobs.train import TrainResult as TrainResult
    from ad.core.jobs.train import train as train
    from ad.core.predict import Finding as Finding
    from ad.core.predict import LoadedDetector as LoadedDetector
    from ad.core.predict import load as load
    from ad.core.registry import ModelRegistry as ModelRegistry
    from ad.core.registry import ModelSpec as ModelSpec
    from ad.core.trainer import GradientTrainer as GradientTrainer
    from ad.core.trainer import OnePassTrainer as OnePassTrainer
    from ad.core.trainer import Optimization as Optimization
    from ad.core.trainer import Setup as Setup
    from ad.core.trainer import Trainer as Trainer

# No module here has the name of a public function: importing it would put the module in its place.
_HOMES = {
    "AdError": "errors",
    "Callback": "callbacks",
    "DatasetSpec": "data.samples",
    "Detector": "detector",
    "Finding": "predict",
    "GradientTrainer": "trainer",
    "LoadedDetector": "predict",
    "LoopState": "callbacks",
    "ModelRegistry": "registry",
    "ModelSpec": "registry",
    "OnePassTrainer": "trainer",
    "Optimization": "trainer",
    "Prediction": "detector",
    "Sample": "data.samples",
    "Setup": "trainer",
    "Sides": "framing",
    "Size": "framing",
    "TrainResult": "jobs.train",
    "Trainer": "trainer",
    "evaluate": "jobs.evaluate",
    "load": "predict",
    "recalibrate": "jobs.recalibrate",
    "size_of": "framing",
    "train": "jobs.train",
    "write_report": "jobs.report",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module `ad.core` has no attribute `{name}`"
        raise AttributeError(msg)
    from importlib import import_module

    value = getattr(import_module(f"ad.core.{_HOMES[name]}"), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
