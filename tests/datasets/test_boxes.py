"""Boxes as text, what is wrong with a box, and boxes moved into their image."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt4.conversation.box_text import box_text
from minigpt4.datasets.boxes import (
    EMPTY,
    INSIDE,
    OUTSIDE,
    REVERSED,
    STICKS_OUT,
    UNKNOWN,
    box_fault,
    checked_box,
    clip_boxes,
    text_fault,
)
from minigpt4.evaluation.drawing import boxes_in


@pytest.mark.parametrize(
    ("box", "size", "text"),
    [
        ([0, 0, 40, 30], (40, 30), "{<0><0><100><100>}"),
        ([10, 15, 10, 15], (40, 60), "{<25><25><50><50>}"),
        ([11.6, 17.1, 11.6, 12.9], (40, 30), "{<28><57><57><100>}"),  # 11.6 / 40 * 100 is 28.999...
        ([116, 2, 11, 90], (120, 90), "{<96><2><105><102>}"),  # sticks out, not clamped
        ([-4, -1, 30, 25], (120, 90), "{<-3><-1><21><26>}"),  # truncated toward zero
    ],
)
def test_corners_are_truncated_hundredths(box, size, text):
    assert box_text(box, size) == text


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIDE = st.integers(1, 4000)
ANY = st.floats(-5000, 5000, allow_nan=False)


@st.composite
def boxes_inside(draw):
    """Draw an image's size and a box (x, y, width, height) inside it."""
    size = draw(SIDE), draw(SIDE)
    fractions = st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted)
    spans = [[fraction * side for fraction in draw(fractions)] for side in size]
    (x1, x2), (y1, y2) = spans
    return size, [x1, y1, x2 - x1, y2 - y1]


def numbers(text):
    return [int(number) for number in re.findall(r"-?\d+", text)]


@patient
@given(boxes_inside())
def test_a_box_inside_comes_back_within_a_hundredth(drawn):
    size, box = drawn
    text = box_text(box, size)
    corners = box[0], box[1], box[0] + box[2], box[1] + box[3]
    for number, corner, side in zip(numbers(text), corners, size * 2, strict=True):
        assert 0 <= corner / side * 100 - number < 1 + 1e-6
    assert clip_boxes(text) == text
    assert text_fault([text]) in (INSIDE, EMPTY, OUTSIDE)  # a thin one at the edge has no hundredth inside
    [found] = boxes_in(text)
    assert list(found.corners) == numbers(text)


@patient
@given(st.tuples(SIDE, SIDE), st.lists(ANY, min_size=4, max_size=4))
def test_a_clipped_box_has_corners_in_order_between_0_and_100(size, box):
    text = clip_boxes(f"before {box_text(box, size)} behind")
    assert re.fullmatch(r"before \{(<\d+>){4}\} behind", text)
    x1, y1, x2, y2 = numbers(text)
    assert 0 <= x1 <= x2 <= 100 and 0 <= y1 <= y2 <= 100
    assert clip_boxes(text) == text


@patient
@given(st.tuples(SIDE, SIDE), st.lists(ANY, min_size=4, max_size=4))
def test_a_box_without_fault_is_written_in_order_between_0_and_100(size, box):
    fault, (x1, y1, x2, y2) = box_fault(box, size), numbers(box_text(box, size))
    if fault == INSIDE:
        assert 0 <= x1 <= x2 <= 100 and 0 <= y1 <= y2 <= 100
    if fault == STICKS_OUT:
        assert min(x1, y1) < 0 or max(x2, y2) > 100
    without_size = box_fault(box, None)
    assert without_size in (fault, UNKNOWN)


@patient
@given(st.text())
def test_text_without_a_box_is_not_touched(text):
    assert clip_boxes(text) == text or re.search(r"\{<", text)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ([0, 0, 640, 480], INSIDE),
        ([-3, 0, 10, 10], INSIDE),  # its text says 0
        ([-7, 0, 17, 10], STICKS_OUT),
        ([600, 400, 100, 50], STICKS_OUT),
        ([0, -904, 50, 40], OUTSIDE),
        ([640, 0, 10, 10], OUTSIDE),
        ([0, 480, 10, 10], OUTSIDE),
        ([5, 5, 0, 10], EMPTY),
        ([700, 5, 10, 0], EMPTY),
        ([50, 50, -20, 20], REVERSED),
    ],
)
def test_what_is_wrong_with_a_box_in_pixels(box, fault):
    assert box_fault(box, (640, 480)) == fault


@pytest.mark.parametrize(
    ("text", "fault", "clipped"),
    [
        ("<p>a</p> {<0><0><100><100>}", INSIDE, "<p>a</p> {<0><0><100><100>}"),
        ("{<-5><-8><15><12>}", STICKS_OUT, "{<0><0><15><12>}"),
        ("{<90><90><130><130>}", STICKS_OUT, "{<90><90><100><100>}"),
        ("{<50><50><50><60>}", EMPTY, "{<50><50><50><60>}"),
        ("{<50><60><30><40>}", REVERSED, "{<30><40><50><60>}"),
        ("{<10><-241><20><-200>}", OUTSIDE, "{<10><0><20><0>}"),
        ("{<1><1><2><2>}<delim>{<9><9><5><101>}", REVERSED, "{<1><1><2><2>}<delim>{<5><9><9><100>}"),
        ("{<-0><1><2><2>}", INSIDE, "{<0><1><2><2>}"),
        ("{<1><2><3>} {<a><1><2><3>}", INSIDE, "{<1><2><3>} {<a><1><2><3>}"),
    ],
)
def test_what_is_wrong_with_the_boxes_of_a_text(text, fault, clipped):
    assert text_fault([text]) == fault
    assert clip_boxes(text) == clipped


def test_a_box_of_infinite_numbers_is_a_mistake_of_its_row():
    with pytest.raises(ValueError, match="its box"):
        box_text([float("inf"), 0, 5, 5], (10, 10))


@pytest.mark.parametrize(
    "box", [[], [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, float("nan")], [1e400, 2, 3, 4], None, [True] * 4]
)
def test_a_box_that_is_not_four_numbers_is_refused(box):
    with pytest.raises(ValueError, match="its box should be four finite numbers"):
        checked_box(box)
