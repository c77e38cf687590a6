import pytest

from minigpt4.sample_world.world import WorldSize, write_world

SIZE = WorldSize(num_train_scenes=100, num_eval_scenes=300)
SEED = 3


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    write_world(out, SIZE, seed=SEED)
    return out
