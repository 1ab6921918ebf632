"""Gets the engine's programs from Debian's archive into a folder, past the host's apt.

Docker, buildx and compose come from `sid`: a stable release is too old for `COPY --link` and for a
registry cache of `mode=max`. What touches the kernel (runc, iptables) is of the host's release.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ci.errors import CiError
from ci.terminal import say

_NEW: Final = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd")
_HOST: Final = (
    *("runc", "libseccomp2", "docker-registry", "mmdebstrap"),
    *("iptables", "libxtables12", "libip4tc2", "libip6tc2", "libnftnl11", "libmnl0"),
    *("libnfnetlink0", "libnetfilter-conntrack3"),
)
_ARCHIVE: Final = "http://deb.debian.org/debian"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_PLUGINS: Final = "usr/libexec/docker/cli-plugins"
_WRAPPED: Final = {
    "runc": "usr/sbin/runc",
    "iptables": "usr/sbin/xtables-nft-multi iptables",
    "ip6tables": "usr/sbin/xtables-nft-multi ip6tables",
}
_LINKED: Final = {
    "dockerd": "usr/sbin/dockerd",
    "docker-proxy": "usr/sbin/docker-proxy",
    "containerd": "usr/bin/containerd",
    "containerd-shim-runc-v2": "usr/bin/containerd-shim-runc-v2",
    "docker": "usr/bin/docker",
    "docker-registry": "usr/bin/docker-registry",
    "mmdebstrap": "usr/bin/mmdebstrap",
}


def programs(home: Path) -> Path:
    """Return the folder with the engine's programs, which are downloaded if it is not complete.

    Raises:
        CiError: this is no Debian, or its archive does not answer.
    """
    bin_ = home / "bin"
    if (bin_ / "made").is_file():
        return bin_
    release = codename()
    began = home / "packages"
    shutil.rmtree(began, ignore_errors=True)
    shutil.rmtree(bin_, ignore_errors=True)
    root = began / "root"
    say("Bringing docker from Debian's archive: 100 MB, once")
    for suite, names in (("sid", _NEW), (release, _HOST)):
        unpack(names, root, began / suite, suite)
    _arrange(root, bin_, home / "docker")
    shutil.rmtree(began / "sid")
    (bin_ / "made").touch()
    return bin_


def unpack(names: tuple[str, ...], root: Path, work: Path, suite: str) -> None:
    """Unpack Debian's packages into `root`, without those that they depend on.

    Raises:
        CiError: the archive does not answer, or lacks one of them.
    """
    root.mkdir(parents=True, exist_ok=True)
    for package in _download(work, suite, names):
        _run("dpkg", "-x", str(package), str(root))


def codename() -> str:
    """Return the host's release, such as `bookworm`.

    Raises:
        CiError: this is no Debian, or not root.
    """
    if os.geteuid() != 0:
        raise CiError("a throw-away engine needs root; without it, use a docker that is installed")
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or not _KEYRING.is_file():
        raise CiError("a throw-away engine is made of Debian's packages; here, install docker")
    return release["VERSION_CODENAME"]


def _download(folder: Path, suite: str, names: tuple[str, ...]) -> list[Path]:
    for part in ("lists/partial", "cache/archives/partial", "got"):
        (folder / part).mkdir(parents=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {_ARCHIVE} {suite} main\n", encoding="utf-8")
    (folder / "status").touch()
    options = [
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"),
        *("-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"),
        *("-o", f"Dir::State::status={folder / 'status'}", "-o", "APT::Sandbox::User=root"),
        "-qq",
    ]
    _run("apt-get", *options, "update", cwd=folder / "got")
    _run("apt-get", *options, "download", *names, cwd=folder / "got")
    return sorted((folder / "got").glob("*.deb"))


def _arrange(root: Path, bin_: Path, config: Path) -> None:
    """Link every program into `bin_`, and docker's plugins into `config`."""
    bin_.mkdir()
    for name, target in _LINKED.items():
        (bin_ / name).symlink_to(root / target)
    for name, target in _WRAPPED.items():
        libraries = root / _LIBRARIES
        (bin_ / name).write_text(
            "#!/bin/sh\n"
            f"export LD_LIBRARY_PATH={libraries} XTABLES_LIBDIR={libraries / 'xtables'}\n"
            f'exec {root}/{target} "$@"\n',
            encoding="utf-8",
        )
        (bin_ / name).chmod(0o755)
    plugins = config / "cli-plugins"
    shutil.rmtree(config, ignore_errors=True)
    plugins.mkdir(parents=True)
    for plugin in (root / _PLUGINS).iterdir():
        (plugins / plugin.name).symlink_to(plugin)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CiError(f"{' '.join(command[:1])} failed: {said[-1] if said else 'it said nothing'}")
