"""Building services: what depends on the libraries that are installed."""

import logging
import sys
from pathlib import Path

import pytest

from driftline_app.assembly import _if_drawable


def test_reports_need_evidently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert _if_drawable(tmp_path) == tmp_path
    monkeypatch.setitem(sys.modules, "evidently", None)  # as if it were not installed
    with caplog.at_level(logging.INFO):
        assert _if_drawable(None) is None
        assert not caplog.messages
        assert _if_drawable(tmp_path) is None
    assert "pip install 'driftline[evidently]'" in caplog.text
