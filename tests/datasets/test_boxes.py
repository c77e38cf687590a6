import pytest

from minigpt4.datasets.boxes import box_text


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
