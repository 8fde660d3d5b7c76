"""What tests of reports share: to read a page as a browser would, and what pages show."""

import io
import json
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from ad.core.data.samples import Sample


class Page(HTMLParser):
    """What a browser would see in a report: its elements, scripts, data and policy."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self._inside = [], {}, None
        self.feed(path.read_bytes().decode())
        self.data = json.loads(self.texts["application/json"])

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        if tag in ("script", "style", "title"):
            self._inside = given.get("type", tag)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, text):
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + text


def samples_of(labels, *, category="toy"):
    return [
        Sample(f"{n}.png", label, "test", category, f"kind{n % 3}" if label else "good")
        for n, label in enumerate(labels)
    ]


def pixels(webp):
    return np.asarray(Image.open(io.BytesIO(webp)))
