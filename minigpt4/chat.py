"""Talk with a model about a picture, in a terminal.

minigpt4 chat --cfg-path eval_configs/minigptv2_eval.yaml --image x.jpg

A line is a question; /image PATH shows another picture, /new begins again, /quit or the end of input ends. A question
begins with the tag of its task ([vqa], [refer], [grounding], [detection]..). A copy of the picture with the boxes of an
answer drawn on it is saved.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt4.api import Assistant, Chat, load_model, open_picture
from minigpt4.common.dist_utils import use_expandable_segments
from minigpt4.common.seeds import seed_torch
from minigpt4.common.user_errors import plain_errors
from minigpt4.evaluation.drawing import boxes_in, draw_boxes

HELP = "/image PATH  another picture;  /new  begin again;  /quit  end"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="minigpt4 chat",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: minigpt4 chat --cfg-path eval_configs/minigptv2_eval.yaml --image x.jpg",
    )
    parser.add_argument("--cfg-path", required=True, help="YAML with the model, as eval_configs/minigptv2_eval.yaml")
    parser.add_argument("--image", type=Path, help="the picture to talk about; without one you talk about text alone")
    parser.add_argument("--ckpt", help="overrides model.ckpt")
    parser.add_argument("--device", help="overrides run.device; default: a GPU where there is one")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="laid over the YAML"
    )
    parser.add_argument("--max-new-tokens", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest words")
    parser.add_argument("--top-p", type=float, default=0.9, help="with a temperature: sample from this much")
    parser.add_argument("--seed", type=int, default=42, help="with a temperature: makes a session repeatable")
    parser.add_argument("--save-dir", type=Path, default=Path(), help="where pictures with boxes are saved")
    return parser


class Session:
    """A terminal's conversation: it reads lines, writes answers as they come, and saves pictures with boxes."""

    def __init__(self, assistant: Assistant, args: argparse.Namespace) -> None:
        self._assistant, self._save_dir = assistant, args.save_dir
        self._how: dict[str, Any] = {"max_new_tokens": args.max_new_tokens}
        if args.temperature > 0:
            self._how |= {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p}
        self._image: Path | None = args.image
        self._chat = assistant.chat(args.image)

    def take(self, line: str) -> bool:
        """Answer a line or follow its command; return whether the session continues."""
        word, _, rest = line.strip().partition(" ")
        if word in ("/quit", "/exit"):
            return False
        try:
            if word == "/image":
                self._chat, self._image = self._assistant.chat(rest.strip()), Path(rest.strip())
            elif word == "/new":
                self._chat = self._assistant.chat(self._image)
            elif word.startswith("/"):
                print(HELP)
            elif word:
                self._answer(self._chat, line.strip())
        except ValueError as error:  # the user's mistake; the conversation continues
            print(f"! {error}")
        return True

    def _answer(self, chat: Chat, question: str) -> None:
        shown = answer = ""
        for answer in chat.ask(question, **self._how):
            whole = answer.rstrip("\ufffd")  # a character of several tokens is shown once it is whole
            shown = _print_more(shown, whole)
        _print_more(shown, answer)
        print()
        boxes = boxes_in(answer)
        if boxes and self._image is not None:
            path = self._save_dir / f"{self._image.stem}_boxes_{len(chat.turns)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_boxes(open_picture(self._image, self._assistant.pictures), boxes).save(path)
            print(f"({len(boxes)} boxes drawn in {path})")


def _print_more(shown: str, text: str) -> str:
    """Print the new end of `text`, or all of it on a new line if it does not extend what was shown; return `text`."""
    print(text[len(shown) :] if text.startswith(shown) else f"\n{text}", end="", flush=True)
    return text


def main(words: Sequence[str] | None = None) -> None:
    """Talk until the input ends."""
    use_expandable_segments()
    args = make_parser().parse_args(words)
    with plain_errors("chat"):
        assistant = load_model(args.cfg_path, options=args.options, ckpt=args.ckpt, device=args.device)
        session = Session(assistant, args)
    seed_torch("chat", args.seed)
    print(HELP)
    while True:
        try:
            if not session.take(input("> ")):
                break
        except (EOFError, KeyboardInterrupt):
            print()
            break


if __name__ == "__main__":
    main()
