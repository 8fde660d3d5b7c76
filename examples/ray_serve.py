"""The server of `ad-runtime serve` on a Ray cluster: `serve run ray_serve:deployment`.

    pip install './packages/ad-runtime[onnx,serve]' 'ray[serve]'
    AD_EXPORTS=/models/parts serve run examples.ray_serve:deployment

Copies of the server are started and ended as requests come. It has no token of its own: whoever
reaches Ray's proxy may ask.
"""

import os
from pathlib import Path

from ray import serve
from starlette.applications import Starlette

from ad.runtime.serve.process import Options, application


def build() -> Starlette:
    """The application of one copy, which loads the exported models for itself."""
    exports = os.environ["AD_EXPORTS"].split(os.pathsep)
    return application(Options(exports=[Path(export) for export in exports]))


@serve.deployment(
    ray_actor_options={"num_cpus": 2},
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 4},
    max_ongoing_requests=64,
)
@serve.ingress(build)
class Server:
    """One copy."""


deployment = Server.bind()  # type: ignore[attr-defined]
