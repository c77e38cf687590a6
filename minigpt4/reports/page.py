"""Fills a template: one HTML file that needs no network, where no text of the data becomes markup.

A new page is a template that extends base.html.j2, and a function that calls `write_page` with its values.
"""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from minigpt4.common.files import write_text
from minigpt4.common.tables import as_interval, as_percent
from minigpt4.reports.charts import short, ticks

UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
MAX_CHARACTERS = 600
"""The number of characters that a template keeps of a long text."""


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a filled template whole or not at all; return its path. Raises: NotWrittenError."""
    write_text(path, render(template, **values))
    return path


def render(template: str, **values: Any) -> str:
    """Return a filled template."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Return the environment of all templates: every value is escaped, a missing value is an error."""
    env = Environment(
        loader=PackageLoader("minigpt4.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=showable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"cut": cut, "percent": as_percent, "interval": as_interval, "as": as_format, "short": short}
    env.globals["ticks"] = ticks
    return env


def showable(value: Any) -> Any:
    """Return a value without characters that HTML does not allow or a file cannot hold."""
    return value if isinstance(value, Markup) else UNSHOWABLE.sub("\ufffd", str(value))


def cut(value: Any, limit: int = MAX_CHARACTERS) -> str:
    """Return the beginning of a long text with the length of the whole."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]} \u2026 ({len(text):,} characters)"


def as_format(value: Any, form: str, missing: str = "") -> str:
    """Return a value in a format of Python, `missing` for None."""
    return missing if value is None else format(value, form)


def data_uri(image: Image.Image, *, quality: int) -> str:
    """Return a picture as a data URI of a JPEG."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
