"""report.html: accuracies by question type and the wrong answers with their pictures, in one file without network."""

from __future__ import annotations

import base64
import html
import io
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from minigpt4.common.files import write_text
from minigpt4.common.seeds import derive_rng
from minigpt4.evaluation.benchmarks.choice import BY_LETTER
from minigpt4.evaluation.drawing import boxes_in, draw_boxes
from minigpt4.evaluation.mistakes import WRONG, read_mistakes
from minigpt4.evaluation.published import BASELINE, ENGINE, as_interval, as_percent
from minigpt4.evaluation.results import read_results
from minigpt4.processors.pictures import AS_STORED, decode_image

REPORT = "report.html"
NUM_CARDS = 12
"""How many wrong answers of a question type the page shows at most."""
NUM_PICTURES = 400
"""How many pictures the whole page holds at most."""
PICTURE_SIDE = 320
MAX_CHARACTERS = 600
"""So much of a text is shown."""
TRUE_AND_GIVEN = ("#1a7f37", "#cf222e")
UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NO_TYPE = "all questions"


def write_report(save_path: Path) -> Path:
    """Write the page about all that results.json and wrong.jsonl hold; return its path."""
    results = {name: facts for name, facts in read_results(save_path).items() if "accuracy" in facts}
    wrong: dict[str, list[dict[str, Any]]] = {name: [] for name in results}
    for row in read_mistakes(save_path):
        wrong.setdefault(row["benchmark"], []).append(row)
    pictures = Pictures(NUM_PICTURES, {name: facts.get("pictures", AS_STORED) for name, facts in results.items()})
    sections = "".join(section(name, facts, wrong[name], pictures) for name, facts in results.items())
    page = Template((resources.files("minigpt4.evaluation") / "report_template.html").read_text(encoding="utf-8"))
    links = "".join(f'<a href="#{text(name)}">{text(name)}</a>' for name in results)
    path = save_path / REPORT
    write_text(path, page.substitute(links=links, overview=overview(results, wrong), sections=sections))
    return path


def text(value: Any, *, limit: int = MAX_CHARACTERS) -> str:
    """Return anything as text that a page shows as it is: escaped, cut, characters that cannot be shown replaced."""
    whole = str(value)
    shown = UNSHOWABLE.sub("\ufffd", whole[:limit])
    more = f" \u2026 ({len(whole):,} characters)" if len(whole) > limit else ""
    return html.escape(shown + more)


def overview(results: Mapping[str, Mapping[str, Any]], wrong: Mapping[str, Sequence[Any]]) -> str:
    """Return the table of all benchmarks."""
    titles = ("benchmark", "accuracy", "95 % interval", "baseline *", "engine *", "questions")
    head = "".join(f"<th>{title}</th>" for title in (*titles, "wrong", "unanswered", "do not parse"))
    rows = []
    for name, facts in results.items():
        numbers = [facts.get("num_questions"), len(wrong[name]), facts.get("num_unanswered"), facts.get("num_unparsed")]
        cells = [
            f"<b>{as_percent(facts['accuracy'])}</b>",
            as_interval(facts.get("interval")),
            as_percent(BASELINE.get(name)),
            as_percent(ENGINE.get(name)),
            *("-" if number is None else f"{number:,}" for number in numbers),
        ]
        link = f'<td><a href="#{text(name)}">{text(name)}</a></td>'
        rows.append(f"<tr>{link}" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def section(name: str, facts: Mapping[str, Any], wrong: Sequence[Mapping[str, Any]], pictures: Pictures) -> str:
    """Return a benchmark's part of the page: its types from the weakest on, each with wrong answers to unfold."""
    by_type: dict[str, float | None] = dict(facts.get("accuracy_by_type", {})) or {_NO_TYPE: facts["accuracy"]}
    groups: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in by_type}
    for row in wrong:
        groups.setdefault(_NO_TYPE if row["type"] is None else str(row["type"]), []).append(row)
    weakest_first = sorted(groups, key=lambda kind: (by_type.get(kind) is None, by_type.get(kind) or 0))
    rng = derive_rng("report", name)
    types = "".join(type_part(kind, by_type.get(kind), groups[kind], pictures, rng) for kind in weakest_first)
    made_with = f"checkpoint {text(facts['ckpt'])}, " if facts.get("ckpt") else ""
    count = f"{facts.get('num_questions', 0):,} questions, {len(wrong):,} wrong"
    return (
        f'<section id="{text(name)}"><h2>{text(name)} <span class="score">{as_percent(facts["accuracy"])} %</span></h2>'
        f'<p class="facts">{made_with}{count}</p>{types}</section>'
    )


def type_part(
    kind: str, accuracy: float | None, wrong: Sequence[Mapping[str, Any]], pictures: Pictures, rng: random.Random
) -> str:
    """Return one question type: a bar, and wrong answers to unfold, drawn at random where there are many."""
    chosen = sorted(rng.sample(range(len(wrong)), min(NUM_CARDS, len(wrong))))
    cards = "".join(card(wrong[number], pictures) for number in chosen)
    more = len(wrong) - len(chosen)
    note = f'<p class="facts">{more:,} more are in {WRONG}</p>' if more else ""
    bar = f'<span class="bar"><span style="width:{accuracy or 0:.1f}%"></span></span>'
    title = f'<span class="kind">{text(kind, limit=80)}</span>{bar}<span class="number">{as_percent(accuracy)} %</span>'
    return (
        f'<details><summary>{title}<span class="facts">{len(wrong):,} wrong</span></summary>'
        f'<div class="cards">{cards}</div>{note}</details>'
    )


def card(row: Mapping[str, Any], pictures: Pictures) -> str:
    """Return one wrong answer: picture, question, options, what was answered and what is true."""
    options = row["options"] or {}
    lettered = options.items() if isinstance(options, Mapping) else (("", option) for option in options)
    items = "".join(
        f"<li{_mark(letter or option, row)}>{f'<b>{text(letter)}</b> ' * bool(letter)}{text(option)}</li>"
        for letter, option in lettered
    )
    answer = (
        f'<q class="wrong">{text(row["answer"], limit=240)}</q>' if str(row["answer"]).strip() else "<i>no answer</i>"
    )
    partly = f" <small>({row['right']:.0%} right)</small>" if row["right"] else ""
    return (
        f"<article><figure>{pictures.tag(row)}</figure><h4>{text(row['question_id'], limit=40)}</h4>"
        f'<p class="question">{text(_bare(row["prompt"], options))}</p>{f"<ul>{items}</ul>" * bool(items)}'
        f'<p>answered {answer}{partly}<br>truth <q class="right">{text(row["truth"])}</q></p></article>'
    )


def _bare(prompt: str, options: Any) -> str:
    """Return the question without the lines that repeat its lettered options and ask for a letter."""
    if not isinstance(options, Mapping):
        return prompt
    repeated = {BY_LETTER, *(f"{letter}. {option}" for letter, option in options.items())}
    return "\n".join(line for line in prompt.split("\n") if line not in repeated)


def _mark(option: Any, row: Mapping[str, Any]) -> str:
    return ' class="right"' if str(option) == str(row["truth"]) else ""


class Pictures:
    """The pictures of the page, small copies inside it, at most so many; `shown` is each benchmark's `pictures`."""

    def __init__(self, limit: int, shown: Mapping[str, str]) -> None:
        self._left, self._shown = limit, shown

    def tag(self, row: Mapping[str, Any]) -> str:
        """Return the picture of a wrong answer, with the boxes of truth and answer, or a line that says why not."""
        if not row["image"]:
            return ""
        if not self._left:
            return f'<span class="facts">{text(row["image"], limit=200)}</span>'
        try:
            small = decode_image(row["image"], self._shown.get(row["benchmark"], AS_STORED))
        except ValueError:
            return f'<span class="facts">cannot read {text(row["image"], limit=200)}</span>'
        small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        for colour, value in zip(TRUE_AND_GIVEN, _texts(row["truth"], row["answer"]), strict=True):
            small = draw_boxes(small, boxes_in(value), colours=(colour,))
        self._left -= 1
        file = io.BytesIO()
        small.save(file, format="JPEG", quality=80)
        data = base64.b64encode(file.getvalue()).decode()
        size = f'width="{small.width}" height="{small.height}"'
        return f'<img {size} loading="lazy" alt="{text(row["image"], limit=200)}" src="data:image/jpeg;base64,{data}">'


def _texts(*values: Any) -> Iterable[str]:
    return (value if isinstance(value, str) else "" for value in values)
