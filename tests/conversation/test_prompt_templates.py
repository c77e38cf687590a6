import pytest

from minigpt4.conversation.prompt_templates import fill, load_pool


def test_every_shipped_pool_begins_with_its_canonical_wording():
    assert {name: load_pool(name)[0] for name in ("vqa", "caption", "refer", "identify", "grounding")} == {
        "vqa": "[vqa] {}",
        "caption": "[caption] Briefly describe this image.",
        "refer": "[refer] {}",
        "identify": "[identify] {}",
        "grounding": "[grounding] please describe this image in details",
    }


@pytest.mark.parametrize("name", ["vqa", "caption", "refer", "identify", "grounding"])
def test_every_wording_of_a_pool_is_its_own_and_carries_the_task_tag(name):
    pool = load_pool(name)
    assert len(set(pool)) == len(pool)
    assert all(wording.startswith(f"[{name}] ") and wording == wording.strip() for wording in pool)


def test_text_is_filled_in_as_it_is():
    assert fill("[vqa] {} now", "{} and {0} or 100%") == "[vqa] {} and {0} or 100% now"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vqaa: ['{}']", "no pool of wordings is named 'vqa'; did you mean 'vqaa'"),
        ("- a", "no pool of wordings is named 'vqa'"),
        ("vqa: []", "pool 'vqa' should be a list of one or more texts"),
        ("vqa: [1]", "pool 'vqa' should be a list of one or more texts"),
        ("vqa: ['a {}', 'b']", "pool 'vqa': 'b' should have {} as often as 'a {}'"),
    ],
)
def test_a_pool_that_a_user_broke_is_named(tmp_path, text, message):
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"pools.yaml: {message}"):
        load_pool("vqa", path)
