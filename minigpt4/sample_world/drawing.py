"""Drawing: a scene becomes a picture."""

from __future__ import annotations

import math
import random
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from minigpt4.common.seeds import derive_rng
from minigpt4.sample_world.scenes import RADIUS, SIDE, SIGN_TOP, Scene, Thing

Colour = tuple[int, int, int]
Point = tuple[float, float]

RGB: dict[str, Colour] = {
    "red": (220, 30, 30),
    "green": (20, 140, 40),
    "blue": (40, 70, 230),
    "yellow": (250, 220, 20),
    "purple": (150, 40, 170),
    "orange": (250, 130, 10),
}
GROUND_RGB: dict[str, Colour] = {
    "grass": (165, 215, 140),
    "sand": (235, 215, 165),
    "snow": (248, 248, 252),
    "night": (35, 35, 60),
    "water": (150, 205, 240),
}
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def draw_scene(scene: Scene, *, meme: str | None = None) -> Image.Image:
    """Return the picture of a scene, RGB, SIDE x SIDE; a meme's text takes the place of the sign."""
    image = Image.new("RGB", (SIDE, SIDE), GROUND_RGB[scene.ground])
    draw = ImageDraw.Draw(image)
    line = WHITE if scene.ground == "night" else BLACK
    _draw_texture(draw, scene, derive_rng("texture", scene.content))
    if scene.rope is not None:
        first, second = (scene.things[i] for i in scene.rope)
        draw.line((first.x, first.y, second.x, second.y), fill=line, width=3)
    for thing in scene.things:
        _draw_thing(draw, thing, line)
    if meme is not None:
        _draw_sign(draw, meme, half_width=54, font_size=13)
    elif scene.word is not None:
        _draw_sign(draw, scene.word)
    return image


def _draw_texture(draw: ImageDraw.ImageDraw, scene: Scene, rng: random.Random) -> None:
    """Strew short strokes, a little lighter or darker than the ground."""
    ground = GROUND_RGB[scene.ground]
    for _ in range(24):
        x, y = rng.randrange(SIDE), rng.randrange(SIDE)
        shade = rng.choice((-18, 18))
        colour = tuple(min(255, max(0, channel + shade)) for channel in ground)
        draw.line((x, y, x + (3 if scene.ground == "water" else 0), y + 2), fill=colour)


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, outline: Colour) -> None:
    radius, fill = RADIUS[thing.size], RGB[thing.colour]
    if thing.shape == "circle":
        box = (thing.x - radius, thing.y - radius, thing.x + radius, thing.y + radius)
        draw.ellipse(box, fill=fill, outline=outline)
    else:
        points = [(thing.x + radius * x, thing.y + radius * y) for x, y in _outline(thing.shape)]
        draw.polygon(points, fill=fill, outline=outline)


@cache
def _outline(shape: str) -> tuple[Point, ...]:
    """Return the corners of a shape around (0, 0), within -1..1; y points down."""
    if shape == "square":
        return ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9))
    if shape == "triangle":
        return ((0, -1), (1, 0.9), (-1, 0.9))
    if shape == "cross":
        a = 0.33
        right_angle: tuple[Point, ...] = ((a, -1), (a, -a), (1, -a))
        quarters = [right_angle]
        for _ in range(3):
            quarters.append(tuple((-y, x) for x, y in quarters[-1]))
        return tuple(point for quarter in quarters for point in quarter)
    if shape == "star":
        angles = [(math.pi * i / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)]
        return tuple((reach * math.sin(angle), -reach * math.cos(angle)) for angle, reach in angles)
    if shape == "heart":
        turns = [2 * math.pi * i / 24 for i in range(24)]
        heights = [(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) / 17 for t in turns]
        return tuple((math.sin(t) ** 3, -height) for t, height in zip(turns, heights, strict=True))
    raise ValueError(f"no such shape: {shape}")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _draw_sign(draw: ImageDraw.ImageDraw, text: str, *, half_width: int = 30, font_size: int = 20) -> None:
    x, y = SIDE // 2, (SIGN_TOP + SIDE) // 2
    draw.rectangle((x - half_width, SIGN_TOP + 2, x + half_width, SIDE - 3), fill=WHITE, outline=BLACK)
    draw.text((x, y), text, fill=BLACK, font=_font(font_size), anchor="mm")
