"""The chat layout of a model family: the marks around questions, answers and images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_SPAN, Turn

MIN_MARK = 4
"""Cleaning skips a template's text after the question if it is shorter: it may be part of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """The marks of one model family, and its prompts.

    A conversation is laid out as `bos`, `system`, template(question), answer, `end`, and for each later turn `between`,
    template(question), answer, `end`. Two kinds of pieces are tokenized separately: a question with the marks before
    it, and an answer with its `end`.

    template: the text around a question, with one {} for it.
    end: closes each answer; `model.end_sym` of a YAML replaces it.
    unset_end: closes each answer where a YAML leaves `model.end_sym` out; None means `end`.
    bos: begins every sequence; no cut touches it and no loss falls on it.
    system: text before the first question.
    between: text before each later question.
    generation_start: begins a generation prompt, after `bos`; training lacks it.
    stops: marks that end a generated answer, besides the tokenizer's end-of-sequence token.
    image_open, image_close: the marks around an image, in place of `<Img>` and `</Img>` of the datasets.
    keep_blanks: keep the blank at the end of a dataset's question, so that training has it and generation lacks it.

    Marks in a user's own text are not escaped. The tokenizer reads them as the tokens that they name.

    Raises: ValueError when `template` lacks its {} or has further braces.
    """

    template: str
    end: str
    unset_end: str | None = None
    bos: str = ""
    system: str = ""
    between: str = ""
    generation_start: str = ""
    stops: tuple[str, ...] = ()
    image_open: str = "<Img>"
    image_close: str = "</Img>"
    keep_blanks: bool = False

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise ValueError(f"model.prompt_template: {self.template!r} has no {{}} where the question goes")
        try:
            _ = self.around_question
        except (ValueError, LookupError) as error:
            problem = f"model.prompt_template: {self.template!r} may have one {{}} and no other braces"
            raise ValueError(problem) from error

    def override(self, *, template: str | None = None, end: str | None = None) -> ChatFormat:
        """Return the format with another template or end; None keeps the family's."""
        return replace(
            self, template=self.template if template is None else template, end=self.end if end is None else end
        )

    def configured(self, model_cfg: Any) -> ChatFormat:
        """Return the format with `prompt_template` and `end_sym` of a `model` section."""
        end = self.unset_end if model_cfg.end_sym is None else model_cfg.end_sym
        return self.override(template=model_cfg.prompt_template, end=end)

    def bare_question(self, text: str) -> str:
        """Return a dataset's question with the family's image marks, without the template."""
        text = text if self.keep_blanks else text.rstrip()
        return text.replace(IMAGE_SPAN, f"{self.image_open}{IMAGE_PLACEHOLDER}{self.image_close}")

    def first_question(self, text: str) -> str:
        """Return a dataset's question as it begins a training sequence, after `bos`."""
        return self.system + self.template.format(self.bare_question(text))

    def later_question(self, text: str) -> str:
        """Return a dataset's question as it follows an answer."""
        return self.between + self.template.format(self.bare_question(text))

    def generation_prompt(self, question: str, has_image: bool = True) -> str:
        """Return the prompt that asks one question, about one image or about none."""
        return self.chat_prompt([], f"{IMAGE_SPAN} {question}" if has_image else question)

    def chat_prompt(self, turns: Sequence[Turn], question: str) -> str:
        """Return the prompt that asks `question` after the turns so far, each answer closed as in training.

        Image spans keep their positions in the turns' prompts, or in `question`.
        """
        first, *later = *(turn.prompt for turn in turns), question
        texts = self.first_question(first), *map(self.later_question, later)
        answers = *(turn.answer + self.end for turn in turns), ""
        return self.generation_start + "".join(text + answer for text, answer in zip(texts, answers, strict=True))

    def pieces(self, prompt: str) -> Iterator[str]:
        """Yield the pieces of a generation prompt that are tokenized separately: question, answer, question..

        An answer begins after the template's text behind a question, and ends before the next question's `between`.
        """
        before, mark = self.around_question
        opening, following = self.generation_start + self.system + before, self.between + before.rstrip()
        start, at = 0, len(opening) if prompt.startswith(opening) else 0
        while mark and (found := prompt.find(mark, at)) >= 0:
            answer = found + len(mark)
            yield prompt[start:answer]
            start = prompt.find(following or self.end, answer)
            if start < 0:
                start = len(prompt)
            elif not following:
                start += len(self.end)
            yield prompt[answer:start]
            at = start + len(following)
        yield prompt[start:]

    def clean(self, text: str) -> str:
        """Return a generated text up to the first of the stops, without a repeated prompt before it."""
        for stop in self.stops:
            text = text.split(stop)[0]
        mark = self.around_question[1].strip()
        return (text.split(mark)[-1] if len(mark) >= MIN_MARK else text).strip()

    @property
    def around_question(self) -> tuple[str, str]:
        """Return the template's text before a question and after it: "[INST] " and "[/INST]" of Llama-2."""
        before, _, after = self.template.format("\0").partition("\0")
        return before, after.lstrip() or after


def chat_format_of(model_cfg: Any) -> ChatFormat:
    """Return the format of a `model` section: that of its language model, with the section's template and end."""
    chat_format: ChatFormat = registry.get_language_model_class(model_cfg.language_model).chat_format
    return chat_format.configured(model_cfg)


LLAMA_2 = ChatFormat(
    template="[INST] {} [/INST]",
    end="</s>",
    unset_end="\n",
    bos="<s>",
    between="<s>",
    generation_start="<s>",
    stops=("</s>",),
    keep_blanks=True,
)
"""Llama-2-chat as the published weights of MiniGPT-v2 learnt it: two BOS in generation, one in training."""
