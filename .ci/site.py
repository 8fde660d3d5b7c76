"""Builds the pages of this repository as a site: `hatch run docs:build`.

Pages lie where they are read in a clone, and link to each other across folders. So copies of them
are laid out as they lie in a folder of its own, which mkdocs builds strictly: a link that leads
nowhere fails.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "packages/*/README.md", "examples/*/README.md")


def navigation(pages: list[str]) -> list[object]:
    """The guides in the order in which the README names them, then all else."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guides = list(dict.fromkeys(re.findall(r"\]\((docs/[\w-]+\.md)\)", readme)))
    packages = [page for page in pages if page.startswith(("packages/", "examples/"))]
    others = [page for page in pages if page not in {"README.md", *guides, *packages}]
    return [
        {"Start": "README.md"},
        {"Guides": guides},
        {"Packages": [{Path(page).parts[1]: page} for page in packages]},
        {"Project": others},
    ]


def build(output: Path) -> int:
    """Build the site; its exit status is not 0 if a link leads nowhere or a page is not reached."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "pages"
        pages = sorted(path for pattern in PAGES for path in ROOT.glob(pattern))
        for page in (*pages, *ROOT.glob("docs/*.ipynb")):
            copy = home / page.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, copy)
        config = {
            "site_name": "ad",
            "docs_dir": str(home),
            "site_dir": str(output.resolve()),
            "use_directory_urls": False,
            "theme": {"name": "mkdocs", "highlightjs": False},
            "nav": navigation([page.relative_to(ROOT).as_posix() for page in pages]),
            "validation": {
                "nav": {"omitted_files": "warn", "not_found": "warn"},
                "links": {"not_found": "warn", "anchors": "warn", "unrecognized_links": "warn"},
            },
        }
        file = Path(folder) / "mkdocs.yml"
        file.write_text(json.dumps(config))  # which is YAML, too
        command = [sys.executable, "-m", "mkdocs", "build", "--strict"]  # quiet, it would not count
        return subprocess.run([*command, "--config-file", file], check=False).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "site", help="folder of the site")
    sys.exit(build(parser.parse_args().output))
