from PIL import Image

from minigpt4.evaluation.drawing import NamedBox, boxes_in, draw_boxes

RED, BLUE = "#ff0000", "#0000ff"


def test_boxes_come_with_the_phrase_before_them():
    text = "<p>a cat</p> {<0><10><50><60>}<delim>{<5><5><9><9>} and <p>a dog</p> {<100><100><90><90>} {<1><2><3>}"
    assert boxes_in(text) == [
        NamedBox("a cat", (0, 10, 50, 60)),
        NamedBox("a cat", (5, 5, 9, 9)),
        NamedBox("a dog", (100, 100, 90, 90)),
    ]
    assert boxes_in("{<1><2><3><4>}") == [NamedBox("", (1, 2, 3, 4))]
    assert boxes_in("nothing") == []


def test_a_box_is_drawn_where_it_says_and_the_picture_is_left_alone():
    image = Image.new("RGB", (200, 100), "white")
    drawn = draw_boxes(image, [NamedBox("", (25, 50, 75, 100))], colours=(RED,))
    assert image.getpixel((50, 50)) == (255, 255, 255)
    for corner in ((50, 50), (150, 50), (50, 99), (150, 99), (100, 50)):
        assert drawn.getpixel(corner) == (255, 0, 0)
    assert drawn.getpixel((100, 75)) == drawn.getpixel((40, 40)) == (255, 255, 255)


def test_boxes_beyond_the_edges_or_inverted_are_cut_and_turned():
    image = Image.new("RGB", (100, 100), "white")
    drawn = draw_boxes(image, [NamedBox("", (999, 90, 10, 20))], colours=(RED,))
    assert drawn.getpixel((99, 50)) == drawn.getpixel((10, 50)) == (255, 0, 0)


def test_boxes_of_one_phrase_share_a_colour():
    image = Image.new("RGB", (100, 100), "white")
    boxes = [NamedBox("a", (0, 50, 20, 70)), NamedBox("b", (40, 50, 60, 70)), NamedBox("a", (80, 50, 99, 70))]
    drawn = draw_boxes(image, boxes, colours=(RED, BLUE))
    assert drawn.getpixel((10, 70)) == drawn.getpixel((90, 70)) == (255, 0, 0)
    assert drawn.getpixel((50, 70)) == (0, 0, 255)
