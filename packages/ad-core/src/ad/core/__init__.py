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
    from ad.core.data.finding import collect as collect
    from ad.core.data.learning import LearningBatch as LearningBatch
    from ad.core.data.learning import LearningData as LearningData
    from ad.core.data.learning import Truth as Truth
    from ad.core.data.learning import stream as stream
    from ad.core.data.resizing import resize as resize
    from ad.core.data.samples import Archive as Archive
    from ad.core.data.samples import DatasetSpec as DatasetSpec
    from ad.core.data.samples import Sample as Sample
    from ad.core.data.samples import Saturation as Saturation
    from ad.core.data.samples import fingerprint_of as fingerprint_of
    from ad.core.detector import Detector as Detector
    from ad.core.detector import Prediction as Prediction
    from ad.core.detector import learned_buffer as learned_buffer
    from ad.core.detector import trained_flag as trained_flag
    from ad.core.devices import in_precision as in_precision
    from ad.core.devices import resolve_device as resolve_device
    from ad.core.devices import resolve_precision as resolve_precision
    from ad.core.errors import AdError as AdError
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
    from ad.core.predict import LoadedDetector as LoadedDetector
    from ad.core.predict import load as load
    from ad.core.registry import ModelRegistry as ModelRegistry
    from ad.core.registry import ModelSpec as ModelSpec
    from ad.core.registry import get_dataset as get_dataset
    from ad.core.registry import load_trainer as load_trainer
    from ad.core.tracking import Tracker as Tracker
    from ad.core.trainer import FROM_MODEL_FILE as FROM_MODEL_FILE
    from ad.core.trainer import GradientTrainer as GradientTrainer
    from ad.core.trainer import OnePassTrainer as OnePassTrainer
    from ad.core.trainer import Optimization as Optimization
    from ad.core.trainer import Precision as Precision
    from ad.core.trainer import Setup as Setup
    from ad.core.trainer import Trainer as Trainer
    from ad.core.trainer import budget_note as budget_note
    from ad.runtime.files import to_json as to_json
    from ad.runtime.files import write_atomic as write_atomic
    from ad.runtime.findings import Finding as Finding
    from ad.runtime.framing.size import Sides as Sides
    from ad.runtime.framing.size import Size as Size
    from ad.runtime.framing.size import size_of as size_of
    from ad.runtime.paths import given_path as given_path
    from ad.runtime.pictures.reading import read_picture as read_picture
    from ad.runtime.pictures.walking import pictures_below as pictures_below
    from ad.runtime.progress import SILENT as SILENT
    from ad.runtime.progress import Advance as Advance
    from ad.runtime.progress import Progress as Progress

# No module here has the name of a public function: importing it would put the module in its place.
_HOMES = {
    "AdError": "ad.core.errors",
    "Advance": "ad.runtime.progress",
    "Archive": "ad.core.data.samples",
    "BatchSize": "ad.core.options",
    "BatchSizeOption": "ad.core.cli.options",
    "Callback": "ad.core.callbacks",
    "Checkpoints": "ad.core.learning.checkpoints",
    "ConsoleProgress": "ad.core.cli.console",
    "DatasetSpec": "ad.core.data.samples",
    "Detector": "ad.core.detector",
    "DeviceOption": "ad.core.cli.options",
    "Exported": "ad.core.jobs.export",
    "FROM_MODEL_FILE": "ad.core.trainer",
    "Field": "ad.core.options",
    "Finding": "ad.runtime.findings",
    "GradientTrainer": "ad.core.trainer",
    "JsonOption": "ad.core.cli.options",
    "Layers": "ad.core.options",
    "LearningBatch": "ad.core.data.learning",
    "Truth": "ad.core.data.learning",
    "LearningData": "ad.core.data.learning",
    "LearningRate": "ad.core.options",
    "LoadedDetector": "ad.core.predict",
    "LoopState": "ad.core.callbacks",
    "Minutes": "ad.core.options",
    "ModelRegistry": "ad.core.registry",
    "ModelSpec": "ad.core.registry",
    "Name": "ad.core.options",
    "OnePassTrainer": "ad.core.trainer",
    "Optimization": "ad.core.trainer",
    "PathName": "ad.core.options",
    "PictureSet": "ad.core.data.batches",
    "Precision": "ad.core.trainer",
    "PrecisionChoice": "ad.core.cli.options",
    "PrecisionOption": "ad.core.cli.options",
    "Prediction": "ad.core.detector",
    "Probability": "ad.core.options",
    "Progress": "ad.runtime.progress",
    "RAM_BUDGET": "ad.core.data.batches",
    "SILENT": "ad.runtime.progress",
    "Sample": "ad.core.data.samples",
    "Saturation": "ad.core.data.samples",
    "Seed": "ad.core.options",
    "SeedOption": "ad.core.cli.options",
    "Setup": "ad.core.trainer",
    "Side": "ad.core.options",
    "Steps": "ad.core.options",
    "Tracker": "ad.core.tracking",
    "Sides": "ad.runtime.framing.size",
    "Size": "ad.runtime.framing.size",
    "TrainResult": "ad.core.jobs.train",
    "Trainer": "ad.core.trainer",
    "WeightDecay": "ad.core.options",
    "WeightsOption": "ad.core.cli.options",
    "World": "ad.core.learning.distributed",
    "budget_note": "ad.core.trainer",
    "checked": "ad.core.options",
    "collect": "ad.core.data.finding",
    "end_process": "ad.core.learning.distributed",
    "evaluate": "ad.core.jobs.evaluate",
    "export": "ad.core.jobs.export",
    "in_precision": "ad.core.devices",
    "fingerprint_of": "ad.core.data.samples",
    "fit": "ad.core.learning.loop",
    "get_dataset": "ad.core.registry",
    "given_path": "ad.runtime.paths",
    "join_world": "ad.core.learning.distributed",
    "learned_buffer": "ad.core.detector",
    "load": "ad.core.predict",
    "load_trainer": "ad.core.registry",
    "path_of": "ad.core.cli.options",
    "pictures_below": "ad.runtime.pictures.walking",
    "print_json": "ad.core.cli.console",
    "read_picture": "ad.runtime.pictures.reading",
    "recalibrate": "ad.core.jobs.recalibrate",
    "renamed": "ad.core.options",
    "resize": "ad.core.data.resizing",
    "resolve_device": "ad.core.devices",
    "resolve_precision": "ad.core.devices",
    "say": "ad.core.cli.console",
    "stream": "ad.core.data.learning",
    "to_device": "ad.core.data.batches",
    "to_json": "ad.runtime.files",
    "size_of": "ad.runtime.framing.size",
    "train": "ad.core.jobs.train",
    "trained_flag": "ad.core.detector",
    "write_atomic": "ad.runtime.files",
    "write_report": "ad.core.jobs.report",
}

if not TYPE_CHECKING:  # which would else take any name for one of these

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            msg = f"module `ad.core` has no attribute `{name}`"
            raise AttributeError(msg)
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # found at once from now on
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
