"""Pictures of an object store, scored by Ray Data: `python ray_data.py EXPORT s3://in s3://out`.

    pip install './packages/ad-runtime[onnx]' 'ray[data]'

For pictures in folders `ad-runtime predict --executor ray` is quicker, and is gone on with. The
bytes are read by Ray and decoded by `ad.runtime`: another decoder gives other pixels.
"""

import sys
from typing import Any

import numpy as np

import ad.runtime
from ad.runtime import Finding


class Score:
    """Scores batches of encoded pictures; an actor each.

    Args:
        export: What `ad export` wrote, on a path that all machines see.
    """

    def __init__(self, export: str) -> None:
        self.runtime = ad.runtime.load(export, threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """From columns ``path`` and ``bytes`` to what was found in each picture."""
        found: list[Finding] = self.runtime.predict([bytes(one) for one in batch["bytes"]])
        scores = [np.nan if one.score is None else one.score for one in found]
        return {
            "path": batch["path"],
            "score": np.array(scores, dtype=np.float32),
            "verdict": np.array([one.verdict for one in found]),
            "error": np.array([one.error or "" for one in found]),
        }


def main(export: str, source: str, target: str, workers: int = 4) -> None:
    """Score all pictures below an address; lines of JSON are written below another."""
    import ray.data

    pictures = ray.data.read_binary_files(source, include_paths=True)
    results = pictures.map_batches(
        Score, fn_constructor_args=(export,), batch_size=64, concurrency=workers, num_cpus=1
    )
    results.write_json(target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
