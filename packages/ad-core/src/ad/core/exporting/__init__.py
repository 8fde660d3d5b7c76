"""A detector in a format that other engines run, with the threshold that is its own there.

| module     | holds                                                                 |
|------------|-----------------------------------------------------------------------|
| `tracing`  | from a detector to a program without Python: what is in the graph      |
| `formats`  | from a program to the files of ONNX, OpenVINO and torch                |
| `archive`  | the engine of torch's own format                                       |
| `onset`    | thresholds that the exported model sets in its own engine              |
| `parity`   | whether the files score as the detector does                           |

What is exported is read and run by `ad.runtime`, which does without torch.
"""
