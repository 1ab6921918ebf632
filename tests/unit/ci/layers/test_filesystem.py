from ci.layers.gates import Look
from ci.layers.image import read
from tests.oci_layouts import Files, Layouts


def seen(layouts: Layouts, *layers: Files) -> Look:
    return Look(read(str(layouts.make(*layers))))


def test_the_upper_layer_wins(layouts: Layouts) -> None:
    found = seen(layouts, {"a": "1", "b": "1"}, {"a": "22"})
    assert {path: layer.number for path, (_, layer) in found.files.items()} == {"a": 2, "b": 1}
    assert [(lost.path, lost.other.number) for lost in found._hidden] == [("a", 2)]


def test_a_whiteout_removes_a_file_and_a_directory(layouts: Layouts) -> None:
    found = seen(layouts, {"d/x": "", "d/y/z": "", "dd": "", "e": ""}, {".wh.d": "", ".wh.e": ""})
    assert set(found.files) == {"dd"}


def test_what_is_removed_can_come_again(layouts: Layouts) -> None:
    found = seen(layouts, {"d/x": "1"}, {".wh.d": ""}, {"d/x": "2"})
    assert found.files["d/x"][1].number == 3


def test_an_opaque_directory_hides_the_layers_below_and_not_its_own(layouts: Layouts) -> None:
    found = seen(layouts, {"d/x": "", "o": ""}, {"d/.wh..wh..opq": "", "d/new": ""})
    assert set(found.files) == {"o", "d/new"}


def test_a_file_in_the_place_of_a_directory_hides_all_of_it(layouts: Layouts) -> None:
    found = seen(layouts, {"d/x": "", "d/e/y": ""}, {"d": "->other"}, {"d/e/z": ""})
    assert set(found.files) == {"d/e/z"}
    assert {lost.path for lost in found._hidden} == {"d/x", "d/e/y", "d"}
