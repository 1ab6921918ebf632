import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ci.layers import gates
from ci.layers.gates import Look
from ci.layers.image import read
from tests.oci_layouts import Layouts

MIB = 1 << 20
SITE = "usr/local/lib/python3.11/dist-packages"
VENV = "opt/venv/lib/python3.11/site-packages"


def look(path: Path, shared: int = 1) -> Look:
    return Look(dataclasses.replace(read(str(path)), shared=shared))


def faults(gate: Callable[[Look], Iterator[str]], path: Path, shared: int = 1) -> list[str]:
    return list(gate(look(path, shared)))


def labels(**changed: str) -> dict[str, str]:
    names = {"torch": "bentovox.torch", "budget": "bentovox.budget-mib"}
    return {
        "org.opencontainers.image.base.name": "the-base",
        "bentovox.torch": "",
        "bentovox.budget-mib": "10",
        **{names[name]: value for name, value in changed.items()},
    }


def dist(site: str, name: str) -> dict[str, str]:
    return {f"{site}/{name}.dist-info/METADATA": "Name: it"}


def test_an_image_without_faults_passes_every_gate(layouts: Layouts) -> None:
    path = layouts.make({"etc/os-release": "x"}, {"app/main.py": "x"})
    assert not any(gates.judge(look(path)).values())


def test_a_base_is_not_asked_what_only_a_bento_must_have(layouts: Layouts) -> None:
    verdicts = gates.judge(look(layouts.make({"a": ""}, labels={}, user=""), shared=0))
    assert not any(verdicts.values())
    assert gates.GATES.keys() - verdicts.keys() == {
        "app part within its budget",
        "one torch, the base's, as locked",
        "not root",
    }


def test_a_layer_of_two_gib_fails_and_names_its_directories(layouts: Layouts) -> None:
    image = read(str(layouts.make({f"{SITE}/torch/lib.so": "x"}, created_by=["COPY /t /"])))
    just_below = dataclasses.replace(image.layers[0], raw_bytes=(2 << 30) - 1)
    too_large = dataclasses.replace(image.layers[0], raw_bytes=2 << 30)
    assert not [*gates.raw_layers(Look(dataclasses.replace(image, layers=[just_below])))]
    [fault] = gates.raw_layers(Look(dataclasses.replace(image, layers=[too_large])))
    assert "layer 1 (COPY /t /) is 2.00 GiB raw" in fault
    assert f"{SITE}/torch" in fault
    assert "groups.toml" in fault


def test_an_app_part_over_its_budget_names_both_numbers(layouts: Layouts) -> None:
    layers = {"base": b"x" * 2 * MIB}, {f"{VENV}/fat/x": b"x" * 2 * MIB}
    path = layouts.make(*layers, compression="", labels=labels(budget="1"))
    [fault] = faults(gates.budget, path)
    assert "2.0 MiB compressed, its budget 1 MiB" in fault
    assert f"{VENV}/fat" in fault


def test_what_the_base_holds_does_not_count_for_the_budget(layouts: Layouts) -> None:
    layers = {"base": b"x" * 2 * MIB}, {"app": "x"}
    assert not faults(
        gates.budget, layouts.make(*layers, compression="", labels=labels(budget="1"))
    )


def test_a_bento_without_a_budget_fails(layouts: Layouts) -> None:
    path = layouts.make({}, labels={"org.opencontainers.image.base.name": "b"})
    assert "no label bentovox.budget-mib" in faults(gates.budget, path)[0]


def test_the_same_content_in_two_layers_fails_under_any_name(layouts: Layouts) -> None:
    big = b"y" * (MIB + 1)
    [fault] = faults(gates.nothing_twice, layouts.make({"a/lib.so": big}, {"b/lib.so": big}))
    assert fault.startswith("layer 2 (made 1) has 1.0 MiB that layer 1 (made 0) has already")
    assert "b/lib.so (there a/lib.so)" in fault


def test_a_copy_over_the_original_is_counted_once(layouts: Layouts) -> None:
    big = b"y" * (MIB + 1)
    waste = look(layouts.make({"a": big}, {"a": big})).waste
    assert [(one.layer.number, one.other.number, one.hidden) for one in waste] == [(2, 1, False)]


@pytest.mark.parametrize("upper", [{"a": "new"}, {".wh.a": ""}])
def test_a_big_file_that_a_later_layer_hides_fails(layouts: Layouts, upper: dict[str, str]) -> None:
    [fault] = faults(gates.nothing_twice, layouts.make({"a": b"y" * (MIB + 1)}, upper))
    assert fault.startswith("layer 1 (made 0) has 1.0 MiB that layer 2 (made 1) hides: a;")


def test_small_files_and_copies_within_a_layer_do_not_count(layouts: Layouts) -> None:
    small, big = b"y" * MIB, b"y" * (MIB + 1)
    path = layouts.make({"a": small, "b": big, "c": big}, {"d": small})
    assert not faults(gates.nothing_twice, path)


def test_a_file_that_two_packages_carry_is_told_and_is_no_fault(layouts: Layouts) -> None:
    big = b"y" * (MIB + 1)
    carried = layouts.make({f"{SITE}/triton/cuda.h": big}, {f"{VENV}/tilelang/cuda.h": big})
    assert look(carried).waste
    assert not faults(gates.nothing_twice, carried)


def test_a_package_that_is_installed_twice_is_a_fault(layouts: Layouts) -> None:
    big = b"y" * (MIB + 1)
    path = layouts.make({f"{SITE}/torch/lib/t.so": big}, {f"{VENV}/torch/lib/t.so": big})
    assert len(faults(gates.nothing_twice, path)) == 1


@pytest.mark.parametrize(("theirs", "count"), [("0", 1), ("1", 0)])
def test_the_layers_of_the_platforms_image_are_as_they_are(
    layouts: Layouts, theirs: str, count: int
) -> None:
    lower = {"a": b"y" * (MIB + 1), "var/cache/apt/archives/gcc.deb": "x"}
    path = layouts.make(lower, {"a": "new"}, labels={"bentovox.platform-layers": theirs})
    assert len(faults(gates.nothing_twice, path)) == count
    assert len(faults(gates.no_cache, path)) == count


def test_the_bases_torch_as_locked_passes_whatever_its_local_version(layouts: Layouts) -> None:
    path = layouts.make(dist(SITE, "torch-2.13.0+cpu"), {"app": ""}, labels=labels(torch="2.13.0"))
    assert not faults(gates.one_torch, path)


@pytest.mark.parametrize(
    ("base", "app", "locked", "said"),
    [
        ({}, {}, "2.13.0", "torch is not there, and must be 2.13.0, once and in the base"),
        (dist(SITE, "torch-2.12.0"), {}, "2.13.0", f"torch is 2.12.0 in {SITE} (layer 1 (made 0))"),
        ({}, dist(VENV, "torch-2.13.0"), "2.13.0", f"torch is 2.13.0 in {VENV} (layer 2 (made 1))"),
        (
            dist(SITE, "torch-2.13.0"),
            dist("opt/conda/lib", "torch-2.13.0"),
            "2.13.0",
            "(layer 1 (made 0)) and 2.13.0 in opt/conda/lib (layer 2 (made 1)), and must be",
        ),
        (dist(SITE, "torch-2.13.0"), {}, "", "and must be nowhere, as the lock says"),
    ],
)
def test_any_other_torch_fails(
    layouts: Layouts, base: dict[str, str], app: dict[str, str], locked: str, said: str
) -> None:
    found = faults(gates.one_torch, layouts.make(base, app, labels=labels(torch=locked)))
    assert said in found[0]


def test_a_torch_that_a_later_layer_removed_does_not_count(layouts: Layouts) -> None:
    removed = {f"{SITE}/.wh.torch-2.13.0.dist-info": ""}
    assert not faults(gates.one_torch, layouts.make(dist(SITE, "torch-2.13.0"), removed))


@pytest.mark.parametrize("user", ["", "0", "0:0", "root", "root:root"])
def test_root_fails(layouts: Layouts, user: str) -> None:
    assert "runs as root" in faults(gates.not_root, layouts.make({}, user=user))[0]


@pytest.mark.parametrize("check", [[], ["NONE"]])
def test_no_health_check_fails(layouts: Layouts, check: list[str]) -> None:
    assert faults(gates.healthy, layouts.make({}, healthcheck=check))


@pytest.mark.parametrize(
    "path",
    [
        *("usr/bin/gcc", "usr/bin/gcc-12", "usr/bin/x86_64-linux-gnu-g++-12", "usr/bin/cc"),
        *("usr/local/bin/clang++", "usr/local/cuda/bin/nvcc", "opt/tools/c++"),
    ],
)
def test_a_compiler_on_the_path_fails(layouts: Layouts, path: str) -> None:
    layout = layouts.make({path: ""}, environment=["PATH=/opt/tools:/usr/bin"])
    assert path in faults(gates.no_compiler, layout)[0]


def test_what_packages_carry_and_our_stand_in_are_no_compilers(layouts: Layouts) -> None:
    names = f"{SITE}/nvidia/cu13/bin/nvcc", "usr/local/bin/prebuilt-cc", "usr/bin/gccgo-notes"
    assert not faults(gates.no_compiler, layouts.make(dict.fromkeys(names, "")))


def test_a_compiler_that_a_later_layer_removed_is_no_compiler(layouts: Layouts) -> None:
    assert not faults(gates.no_compiler, layouts.make({"usr/bin/gcc": ""}, {"usr/bin/.wh.gcc": ""}))


@pytest.mark.parametrize(
    "path",
    ["root/.cache/pip/x", "var/cache/apt/archives/gcc.deb", "tmp/.cache/uv/x"],
)
def test_a_cache_fails_even_where_a_later_layer_removed_it(layouts: Layouts, path: str) -> None:
    folder, _, name = path.rpartition("/")
    layout = layouts.make({path: "x"}, {f"{folder}/.wh.{name}": ""})
    assert path in faults(gates.no_cache, layout)[0]


@pytest.mark.parametrize("variable", ["HF_TOKEN=x", "API_KEY=x", "A=hf_abcdefghijkl"])
def test_a_secret_in_the_environment_fails_without_being_shown(
    layouts: Layouts, variable: str
) -> None:
    name, _, value = variable.partition("=")
    [fault] = faults(gates.no_secret, layouts.make({}, environment=[variable]))
    assert name in fault
    assert value not in fault or value == "x"
