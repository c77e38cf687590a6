from minigpt4.evaluation.benchmark import Question
from minigpt4.evaluation.worker import ImageGroup, make_batches


def ask(*asked: tuple[str, int]) -> list[Question]:
    return [Question(id=row, prompt="x" * length, image=image) for row, (image, length) in enumerate(asked)]


def test_questions_of_one_image_are_asked_together_from_the_longest_on():
    questions = ask(("a", 3), ("b", 9), ("a", 5), ("c", 1), ("b", 2))
    assert make_batches(questions, 3) == [ImageGroup(((1, 4),), ("b",)), ImageGroup(((2, 0, 3),), ("a", "c"))]


def test_an_image_with_more_questions_than_a_batch_holds_is_a_group_of_several_batches():
    questions = ask(*[("a", 1)] * 5, ("b", 2))
    assert make_batches(questions, 2) == [ImageGroup(((5,),), ("b",)), ImageGroup(((0, 1), (2, 3), (4,)), ("a",))]


def test_every_row_is_asked_once_whatever_the_batch_size():
    questions = ask(*[(f"image {row * 7 % 11}", row * 5 % 17) for row in range(50)])
    for batch_size in (1, 4, 10, 100):
        groups = make_batches(questions, batch_size)
        assert sorted(row for group in groups for batch in group.batches for row in batch) == list(range(50))
        images = [image for group in groups for image in group.images]
        assert len(images) == len(set(images)) == 11
        assert max(len(batch) for group in groups for batch in group.batches) <= batch_size


def test_nothing_is_planned_of_nothing():
    assert make_batches([], 10) == []
