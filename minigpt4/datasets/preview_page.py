"""The preview as one HTML page: pictures embedded, boxes drawn over them, no scripts, nothing from the network."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator, Sequence

from PIL import Image
from torch import Tensor

from minigpt4.datasets.draws import ENDLESS
from minigpt4.datasets.preview import DatasetView, Sample, Token

BOX = re.compile(r"\{<(-?\d+)><(-?\d+)><(-?\d+)><(-?\d+)>\}")
ESCAPED_BOX = re.compile(r"\{(?:&lt;-?\d+&gt;){4}\}")
NUM_BARS = 24
STYLE = """
:root { --ink: #1d2430; --soft: #667085; --line: #d9dee7; --asked: #1f6feb; --answered: #d9480f; --paper: #f6f7f9 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1200px; padding: 24px; font: 14px/1.5 system-ui, sans-serif; color: var(--ink);
       background: var(--paper) }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 18px; margin: 32px 0 8px } p { margin: 4px 0 12px }
.soft { color: var(--soft) } .asked { color: var(--asked) } .answered { color: var(--answered) }
table { border-collapse: collapse; background: #fff; width: 100% }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; background: #eef1f5 }
.bar { display: inline-block; height: 9px; background: var(--asked); border-radius: 2px; vertical-align: middle }
.bars { display: inline-block; width: 130px; text-align: left }
.sample { display: flex; gap: 16px; padding: 14px; margin: 10px 0; background: #fff; border: 1px solid var(--line);
          border-radius: 8px }
.sample > div { flex: 1; min-width: 0 }
figure { position: relative; margin: 0 0 8px; width: 300px; flex: none }
figure img { display: block; width: 300px; height: 300px }
figure svg { position: absolute; inset: 0; width: 300px; height: 300px; overflow: visible }
rect.asked, rect.answered { fill: none; stroke-width: 3; vector-effect: non-scaling-stroke }
rect.asked { stroke: var(--asked) } rect.answered { stroke: var(--answered); stroke-dasharray: 7 4 }
.id { font: 12px ui-monospace, monospace; color: var(--soft); overflow-wrap: anywhere }
.text { margin: 6px 0; white-space: pre-wrap; overflow-wrap: anywhere }
.text b { display: inline-block; width: 62px; font-weight: 600 }
.tokens { margin-top: 8px; font: 12px/1.9 ui-monospace, monospace; overflow-wrap: anywhere; max-height: 260px;
          overflow-y: auto }
.tokens span { padding: 1px 2px; margin: 0 1px; border-radius: 3px; background: #eef1f5; white-space: pre-wrap }
.tokens span.trained { background: #ffe0cc; color: #9a3412; font-weight: 600 }
.tokens span.image { background: #dbeafe; color: #1e40af }
.bad { color: #b42318 }
.chart rect { fill: var(--asked) } .chart text { font-size: 11px; fill: var(--soft) }
"""


def page(views: Sequence[DatasetView]) -> str:
    """Return the whole page."""
    tokens = sum(view.share * view.tokens_a_step for view in views)
    rows = sum(view.share * view.ingredient.batch_size for view in views)
    body = [
        "<h1>What the model will see</h1>",
        f"<p class='soft'>A step takes one dataset by its share: on average {rows:.1f} samples and "
        f"<b id='tokens'>{tokens:,.0f} tokens</b> a rank, images included. Boxes of the question are "
        "<b class='asked'>drawn solid</b>, those of the answer <b class='answered'>dashed</b>; "
        "<span class='tokens'><span class='trained'>these</span></span> tokens are trained.</p>",
        _mixture(views),
        "<h2>Lengths of texts</h2><p class='soft'>Tokens of a sample without its image; as often as samples are drawn."
        f" Measured on up to {max((len(view.text_lengths) for view in views), default=0)} samples a dataset.</p>",
        _histogram(views),
        *(part for view in views for part in _dataset(view)),
    ]
    head = f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Preview</title><style>{STYLE}</style>"
    return "\n".join([head + "</head><body>", *body, "</body></html>\n"])


def _mixture(views: Sequence[DatasetView]) -> str:
    titles = ("dataset", "rows", "batch", "ratio", "share of steps", "text tokens", "trained", "tokens a step")
    lines = ["<table><tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"]
    largest = max(view.share for view in views)
    for view in views:
        one, measured = view.ingredient, max(len(view.text_lengths), 1)
        bar = f"<span class='bars'><span class='bar' style='width:{120 * view.share / largest:.0f}px'></span></span>"
        cells = (
            f"<a href='#{html.escape(one.name)}'>{html.escape(one.name)}</a>",
            "endless" if one.num_rows == ENDLESS else f"{one.num_rows:,}",
            str(one.batch_size),
            f"{one.ratio:g}",
            f"{bar} {view.share:.1%}",
            f"{sum(view.text_lengths) / measured:.0f}",
            f"{sum(view.num_trained) / measured:.0f}",
            f"{view.tokens_a_step:,.0f}",
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _histogram(views: Sequence[DatasetView]) -> str:
    """Return a bar chart of text lengths; each dataset weighs as many samples as are drawn of it."""
    longest = max((length for view in views for length in view.text_lengths), default=1)
    width = -(-(longest + 1) // NUM_BARS)
    bars = [0.0] * NUM_BARS
    for view in views:
        for length in view.text_lengths:
            bars[length // width] += view.share * view.ingredient.batch_size / len(view.text_lengths)
    total, tallest = sum(bars) or 1.0, max(bars) or 1.0
    parts = []
    for number, bar in enumerate(bars):
        x, tall = 10 + number * 47, 120 * bar / tallest
        title = f"{number * width} to {(number + 1) * width - 1} tokens: {bar / total:.1%} of the samples"
        parts.append(f"<rect x='{x}' y='{135 - tall:.1f}' width='43' height='{tall:.1f}'><title>{title}</title></rect>")
        parts.append(f"<text x='{x}' y='150'>{number * width}</text>")
        if bar:
            parts.append(f"<text x='{x + 4}' y='{131 - tall:.1f}'>{bar / total:.0%}</text>")
    return f"<svg class='chart' viewBox='0 0 1150 156' width='100%' role='img'>{''.join(parts)}</svg>"


def _dataset(view: DatasetView) -> Iterator[str]:
    name = html.escape(view.ingredient.name)
    yield f"<h2 id='{name}'>{name}</h2>"
    for remark in view.remarks:
        yield f"<p>{html.escape(remark)}</p>"
    for reason in view.unusable[:5]:
        yield f"<p class='bad'>left out: {html.escape(reason)}</p>"
    yield from map(_sample, view.samples)


def _sample(sample: Sample) -> str:
    turns = sample.example.turns
    texts = []
    for turn in turns:
        texts.append(f"<div class='text'><b class='asked'>prompt</b>{_with_boxes_marked(turn.prompt, 'asked')}</div>")
        answer = _with_boxes_marked(turn.answer, "answered")
        texts.append(f"<div class='text'><b class='answered'>answer</b>{answer}</div>")
    asked = [box for turn in turns for box in BOX.findall(turn.prompt)]
    answered = [box for turn in turns for box in BOX.findall(turn.answer)]
    figures = [_figure(picture, asked, answered) for picture in sample.pictures]
    lengths = f"{sample.num_tokens:,} tokens, {sample.num_trained:,} trained"
    return (
        f"<article class='sample'><div style='flex:none'>{''.join(figures)}</div><div>"
        f"<div class='id'>{html.escape(sample.example.id)} · {lengths}</div>{''.join(texts)}"
        f"<div class='tokens'>{''.join(map(_token, sample.tokens))}</div></div></article>"
    )


def _with_boxes_marked(text: str, kind: str) -> str:
    return ESCAPED_BOX.sub(lambda match: f"<span class='{kind}'>{match[0]}</span>", html.escape(text))


def _figure(picture: Tensor, asked: Sequence[Sequence[str]], answered: Sequence[Sequence[str]]) -> str:
    """Return a picture (3, H, W) uint8 with its boxes over it; a box may stick out."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    boxes = "".join(_rectangle(box, "asked") for box in asked) + "".join(
        _rectangle(box, "answered") for box in answered
    )
    overlay = f"<svg viewBox='0 0 100 100' preserveAspectRatio='none'>{boxes}</svg>"
    return f"<figure><img alt='' src='data:image/jpeg;base64,{data}'>{overlay}</figure>"


def _rectangle(box: Sequence[str], kind: str) -> str:
    left, top, right, bottom = (int(side) for side in box)
    size = f"width='{max(right - left, 0)}' height='{max(bottom - top, 0)}'"
    return f"<rect class='{kind}' x='{left}' y='{top}' {size}/>"


def _token(token: Token) -> str:
    kind = "image" if token.is_image else "trained" if token.trained else ""
    text = f"{token.count} × image" if token.is_image else token.text.replace("\n", "↵\n")
    return f"<span class='{kind}'>{html.escape(text)}</span>"
