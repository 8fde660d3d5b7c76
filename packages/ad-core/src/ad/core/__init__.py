"""Visual anomaly detection: learn from pictures of good parts, find the bad ones, show where.

```python
from ad.core import load, train

result = train("folder", "./parts", "patchcore")
print(result.metrics["image_auroc"], result.threshold)
for finding in load(result.run).predict("./new_parts"):
    print(finding.path, finding.score, finding.anomalous)
```

These names, with `ad.core.errors`, `ad.core.networks`, `ad.core.synth`, `ad.core.metrics` and
`ad.core.testing`, are all that models, plug-ins and programs import; `docs/plugins.md` says what
each is. They are imported when they are first used: `import ad.core` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ad.core.__about__ import __version__ as __version__

if TYPE_CHECKING:
    from ad.core.callbacks import Callback as Callback
    from ad.core.callbacks import LoopState as LoopState
    from ad.core.cli.console import ConsoleProgress as ConsoleProgress
    from ad.core.cli.console import print_json as print_json
    from ad.core.cli.console import say as say
    from ad.core.cli.options import BatchSizeOption as BatchSizeOption
    from ad.core.cli.options import DeviceOption as DeviceOption
    from ad.core.cli.options import JsonOption as JsonOption
    from ad.core.cli.options import PrecisionChoice as PrecisionChoice
    from ad.core.cli.options import PrecisionOption as PrecisionOption
    from ad.core.cli.options import SeedOption as SeedOption
    from ad.core.cli.options import WeightsOption as WeightsOption
    from ad.core.cli.options import path_of as path_of
    from ad.core.data.batches import RAM_BUDGET as RAM_BUDGET
    from ad.core.data.batches import PictureSet as PictureSet
    from ad.core.data.batches import to_device as to_device
    from ad.core.data.learning import LearningBatch as LearningBatch
    from ad.core.data.learning import LearningData as LearningData
    from ad.core.data.learning import Truth as Truth
    from ad.core.data.learning import stream as stream
    from ad.core.data.pictures import read_picture as read_picture
    from ad.core.data.pictures import resize as resize
    from ad.core.data.samples import Archive as Archive
    from ad.core.data.samples import DatasetSpec as DatasetSpec
    from ad.core.data.samples import Sample as Sample
    from ad.core.data.samples import Saturation as Saturation
    from ad.core.data.samples import collect as collect
    from ad.core.data.samples import fingerprint_of as fingerprint_of
    from ad.core.data.walking import pictures_below as pictures_below
    from ad.core.detector import Detector as Detector
    from ad.core.detector import Prediction as Prediction
    from ad.core.detector import learned_buffer as learned_buffer
    from ad.core.detector import trained_flag as trained_flag
    from ad.core.devices import in_precision as in_precision
    from ad.core.devices import resolve_device as resolve_device
    from ad.core.devices import resolve_precision as resolve_precision
    from ad.core.errors import AdError as AdError
    from ad.core.framing import Sides as Sides
    from ad.core.framing import Size as Size
    from ad.core.framing import size_of as size_of
    from ad.core.jobs.evaluate import evaluate as evaluate
    from ad.core.jobs.export import Exported as Exported
    from ad.core.jobs.export import export as export
    from ad.core.jobs.recalibrate import recalibrate as recalibrate
    from ad.core.jobs.report import write_report as write_report
    from ad.core.jobs.train import TrainResult as TrainResult
    from ad.core.jobs.train import train as train
    from ad.core.learning.checkpoints import Checkpoints as Checkpoints
    from ad.core.learning.distributed import World as World
    from ad.core.learning.distributed import end_process as end_process
    from ad.core.learning.distributed import join_world as join_world
    from ad.core.learning.loop import fit as fit
    from ad.core.options import BatchSize as BatchSize
    from ad.core.options import Field as Field
    from ad.core.options import Layers as Layers
    from ad.core.options import LearningRate as LearningRate
    from ad.core.options import Minutes as Minutes
    from ad.core.options import Name as Name
    from ad.core.options import PathName as PathName
    from ad.core.options import Probability as Probability
    from ad.core.options import Seed as Seed
    from ad.core.options import Side as Side
    from ad.core.options import Steps as Steps
    from ad.core.options import WeightDecay as WeightDecay
    from ad.core.options import checked as checked
    from ad.core.options import renamed as renamed
    from ad.core.predict import Finding as Finding
    from ad.core.predict import LoadedDetector as LoadedDetector
    from ad.core.predict import load as load
    from ad.core.progress import SILENT as SILENT
    from ad.core.progress import Advance as Advance
    from ad.core.progress import Progress as Progress
    from ad.core.registry import ModelRegistry as ModelRegistry
    from ad.core.registry import ModelSpec as ModelSpec
    from ad.core.registry import get_dataset as get_dataset
    from ad.core.registry import load_trainer as load_trainer
    from ad.core.saved.files import to_json as to_json
    from ad.core.saved.files import write_atomic as write_atomic
    from ad.core.saved.paths import given_path as given_path
    from ad.core.tracking import Tracker as Tracker
    from ad.core.trainer import FROM_MODEL_FILE as FROM_MODEL_FILE
    from ad.core.trainer import GradientTrainer as GradientTrainer
    from ad.core.trainer import OnePassTrainer as OnePassTrainer
    from ad.core.trainer import Optimization as Optimization
    from ad.core.trainer import Precision as Precision
    from ad.core.trainer import Setup as Setup
    from ad.core.trainer import Trainer as Trainer
    from ad.core.trainer import budget_note as budget_note

# No module here has the name of a public function: importing it would put the module in its place.
_HOMES = {
    "AdError": "errors",
    "Advance": "progress",
    "Archive": "data.samples",
    "BatchSize": "options",
    "BatchSizeOption": "cli.options",
    "Callback": "callbacks",
    "Checkpoints": "learning.checkpoints",
    "ConsoleProgress": "cli.console",
    "DatasetSpec": "data.samples",
    "Detector": "detector",
    "DeviceOption": "cli.options",
    "Exported": "jobs.export",
    "FROM_MODEL_FILE": "trainer",
    "Field": "options",
    "Finding": "predict",
    "GradientTrainer": "trainer",
    "JsonOption": "cli.options",
    "Layers": "options",
    "LearningBatch": "data.learning",
    "Truth": "data.learning",
    "LearningData": "data.learning",
    "LearningRate": "options",
    "LoadedDetector": "predict",
    "LoopState": "callbacks",
    "Minutes": "options",
    "ModelRegistry": "registry",
    "ModelSpec": "registry",
    "Name": "options",
    "OnePassTrainer": "trainer",
    "Optimization": "trainer",
    "PathName": "options",
    "PictureSet": "data.batches",
    "Precision": "trainer",
    "PrecisionChoice": "cli.options",
    "PrecisionOption": "cli.options",
    "Prediction": "detector",
    "Probability": "options",
    "Progress": "progress",
    "RAM_BUDGET": "data.batches",
    "SILENT": "progress",
    "Sample": "data.samples",
    "Saturation": "data.samples",
    "Seed": "options",
    "SeedOption": "cli.options",
    "Setup": "trainer",
    "Side": "options",
    "Steps": "options",
    "Tracker": "tracking",
    "Sides": "framing",
    "Size": "framing",
    "TrainResult": "jobs.train",
    "Trainer": "trainer",
    "WeightDecay": "options",
    "WeightsOption": "cli.options",
    "World": "learning.distributed",
    "budget_note": "trainer",
    "checked": "options",
    "collect": "data.samples",
    "end_process": "learning.distributed",
    "evaluate": "jobs.evaluate",
    "export": "jobs.export",
    "in_precision": "devices",
    "fingerprint_of": "data.samples",
    "fit": "learning.loop",
    "get_dataset": "registry",
    "given_path": "saved.paths",
    "join_world": "learning.distributed",
    "learned_buffer": "detector",
    "load": "predict",
    "load_trainer": "registry",
    "path_of": "cli.options",
    "pictures_below": "data.walking",
    "print_json": "cli.console",
    "read_picture": "data.pictures",
    "recalibrate": "jobs.recalibrate",
    "renamed": "options",
    "resize": "data.pictures",
    "resolve_device": "devices",
    "resolve_precision": "devices",
    "say": "cli.console",
    "stream": "data.learning",
    "to_device": "data.batches",
    "to_json": "saved.files",
    "size_of": "framing",
    "train": "jobs.train",
    "trained_flag": "detector",
    "write_atomic": "saved.files",
    "write_report": "jobs.report",
}

if not TYPE_CHECKING:  # which would else take any name for one of these

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
