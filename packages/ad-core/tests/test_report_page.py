"""A report's page: one file that runs its own script only and loads nothing."""

import base64
import hashlib
import json
import re

import pytest
from report_pages import Page

from ad.core.errors import OutputError
from ad.core.report.page import to_script_json, write_page


@pytest.mark.parametrize(
    "text",
    ["</script><script>alert(1)</script>", "<!--<script>", "&lt;", "\u2028", "\udce9", '"', "日本"],
)
def test_texts_in_the_data_can_neither_end_nor_start_anything(text):
    written = to_script_json({text: [text]})
    assert written.isascii()
    assert not set("<>&") & set(written)
    assert json.loads(written) == {text: [text]}


def test_a_page_runs_its_own_script_only_and_loads_nothing(tmp_path):
    title = "</title><script>alert(1)</script>\udce9"
    write_page(tmp_path / "a.html", "run", title, {"a": "{{style}}"})
    page = Page(tmp_path / "a.html")
    assert page.data == {"a": "{{style}}"}
    assert page.tags.count("script") == 2
    assert page.texts["title"].startswith("</title><script>")
    for kind, text in (("style", page.texts["style"]), ("script", page.texts["module"])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page.policy
    assert page.policy.startswith("default-src 'none'; img-src data:;")
    text = (tmp_path / "a.html").read_text()
    assert "{{" not in text.replace('"{{style}}"', "")
    outside = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside


def test_a_page_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_page(tmp_path / "nowhere" / "a.html", "run", "", {})
