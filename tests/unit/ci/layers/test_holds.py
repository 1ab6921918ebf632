import pytest

from ci.layers import archive
from ci.layers.holds import holds
from tests.oci_layouts import Files, Layouts

SITE = "usr/local/lib/python3.11/dist-packages"


@pytest.mark.parametrize(
    ("files", "made", "said"),
    [
        ({f"{SITE}/torch/a": b"x" * 900, f"{SITE}/sympy/b": b"x" * 200}, "COPY", "torch, sympy"),
        ({f"{SITE}/numpy/a": b"x" * 9, f"{SITE}/numpy.libs/b": b"x" * 9}, "COPY", "numpy"),
        (
            {
                f"{SITE}/{name}{end}": b"x"
                for name in "abcdefghij"
                for end in ("/m", ".dist-info/M")
            },
            "COPY",
            "10 packages",
        ),
        ({"app/src/service.py": "x"}, "COPY bento /app # buildkit", "code"),
        ({"models/x": "x"}, "COPY --chown=1:1 parts/baked /models", "baked models"),
        ({"models": None}, "COPY --chown=1:1 parts/baked /models", "no baked models"),
        ({"usr/lib/os-release": "x", "bin/sh": "x"}, "", "operating system"),
        ({"usr/bin/tini": "x"}, "RUN apt-get install tini", "system packages"),
        ({"usr/bin/uv": "x"}, "COPY uv /usr/bin", "usr/bin/uv"),
        ({"app": None}, "WORKDIR /app", "nothing"),
    ],
)
def test_a_layer_is_named_by_what_it_holds(
    layouts: Layouts, files: Files, made: str, said: str
) -> None:
    image = archive.read(str(layouts.make(files, created_by=[made])))
    assert holds(image.layers[0]) == said
