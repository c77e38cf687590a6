"""Captions: a scene in words, in one short sentence or thing by thing."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt4.sample_world.scenes import PLACES, Scene


def short_caption(scene: Scene) -> str:
    """Return what is there, "a red circle and a blue star on grass"."""
    return f"{_joined([_with_article(thing.name) for thing in scene.things])} on {scene.ground}"


def full_caption(scene: Scene) -> str:
    """Return everything that is there: each thing with size and place, the rope, the sign, the ground."""
    things = sorted(scene.things, key=lambda thing: thing.place)
    parts = [f"a {thing.size} {thing.name} in the {PLACES[thing.place]}" for thing in things]
    if scene.rope is not None:
        first, second = sorted((scene.things[i] for i in scene.rope), key=lambda thing: thing.place)
        parts.append(f"the {first.name} is tied to the {second.name}")
    if scene.word is not None:
        parts.append(f"a sign that says {scene.word}")
    return f"{', '.join(parts)} on {scene.ground}"


def sign_caption(scene: Scene) -> str:
    """Return a caption that reads the sign."""
    return f"a sign that says {scene.word} on {scene.ground}"


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
