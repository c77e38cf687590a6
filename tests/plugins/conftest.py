import pytest

from tests.plugins.parts import KINDS, build, write_files


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The files of the new parts, written once."""
    return write_files(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, files):
    return build(kind, files)
