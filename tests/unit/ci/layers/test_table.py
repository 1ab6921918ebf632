import pytest

from ci.layers.command import described
from ci.layers.image import read
from tests.oci_layouts import Files, Layouts

SITE = "usr/local/lib/python3.11/dist-packages"


@pytest.mark.parametrize(
    ("files", "made", "said"),
    [
        ({f"{SITE}/torch/a": b"x" * 900, f"{SITE}/sympy/b": b"x" * 200}, "COPY", "torch, sympy"),
        ({f"{SITE}/{name}/m": b"x" * 9 for name in "abcdefghij"}, "COPY", "a, b, c"),
        ({"app/src/service.py": "x"}, "COPY bento /app # buildkit", "code"),
        ({"models/x": "x"}, "COPY --chown=1:1 parts/baked /models", "baked models"),
        ({"models": None}, "COPY --chown=1:1 parts/baked /models", "nothing"),
        ({"usr/bin/uv": "x"}, "COPY uv /usr/bin", "bin"),
        ({"app": None}, "WORKDIR /app", "nothing"),
    ],
)
def test_a_layer_is_described_by_its_part_or_its_largest_directories(
    layouts: Layouts, files: Files, made: str, said: str
) -> None:
    image = read(str(layouts.make(files, created_by=[made])))
    assert described(image.layers[0]) == said
