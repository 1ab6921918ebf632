"""Compiles what would be compiled at run time: `prebuild.py OUT FOLDER...`, in the devel stage.

Triton 3.7 compiles one C module when it first meets a GPU (triton/backends/nvidia/driver.c). The
result is kept under the SHA-256 of its source; `prebuilt-cc` finds it there. Where no Triton is
installed (a CPU), nothing is made.
"""

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

EPOCH = 315532800  # 1980-01-01, as in ci/build.py
PLACE = "usr/local/lib/prebuilt"


def main(out: Path, *folders: Path) -> None:
    """Compile the module of each Triton found below `folders`."""
    place = out / PLACE
    place.mkdir(parents=True)
    for source in {path for folder in folders for path in folder.glob("**/nvidia/driver.c")}:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        compiled(source, place / f"{digest}.so")
        print(f"{source}: {digest}.so")
    for path in [*out.rglob("*"), out]:
        os.utime(path, (EPOCH, EPOCH))


def compiled(source: Path, module: Path) -> None:
    """Compile a Python module from one source of Triton, with the options that Triton takes."""
    # The driver's library comes with the GPU; linking needs its name only.
    stub = module.with_name("libcuda.so.1")
    name = ["-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null"]
    subprocess.check_call(["gcc", "-shared", "-o", stub, *name])
    include = sysconfig.get_paths(scheme="posix_prefix")["include"]
    where = [f"-I{source.parent / 'include'}", f"-I{include}", f"-L{stub.parent}"]
    options = ["-O3", "-shared", "-fPIC", "-Wno-psabi"]
    library = ["-Wl,--no-as-needed", "-l:libcuda.so.1"]  # the stub has no symbol that is needed
    subprocess.check_call(["gcc", source, *options, "-o", module, *where, *library])
    stub.unlink()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
