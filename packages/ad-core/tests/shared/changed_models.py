"""Saved models that somebody changed, with a manifest that agrees."""

import hashlib
import json


def rewrite(folder, name, content):
    """Change a file and make the manifest agree with it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
