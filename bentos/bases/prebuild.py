"""Compiles what would be compiled at run time: `prebuild.py OUT FOLDER...`, in the devel stage.

Triton 3.7 compiles one C module when it first meets a GPU (triton/backends/nvidia/driver.c). The
result is kept under the SHA-256 of its source; `prebuilt-cc` finds it there. Where no Triton is
installed (a CPU), nothing is made.
"""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

PLACE = "usr/local/lib/prebuilt"


def main(out: Path, *folders: Path) -> None:
    """Compile the module of each Triton found below `folders`."""
    place = out / PLACE
    place.mkdir(parents=True)
    for source in {path for folder in folders for path in folder.glob("**/nvidia/driver.c")}:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        include = sysconfig.get_paths(scheme="posix_prefix")["include"]
        # The driver's library comes with the GPU; linking needs its name only.
        stub = place.with_name("libcuda.so.1")
        subprocess.check_call(
            ["gcc", "-shared", "-o", stub, "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null"]
        )
        subprocess.check_call(
            [
                *(
                    "gcc",
                    source,
                    "-O3",
                    "-shared",
                    "-fPIC",
                    "-Wno-psabi",
                    "-o",
                    place / f"{digest}.so",
                ),
                *(
                    f"-I{source.parent / 'include'}",
                    f"-I{include}",
                    f"-L{stub.parent}",
                    "-l:libcuda.so.1",
                ),
            ]
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
