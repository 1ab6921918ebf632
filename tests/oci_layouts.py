"""Makes small OCI layouts, so that tests need no Docker engine."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backports import zstd

Files = dict[str, str | bytes | None]
"""A layer: paths to contents; None is a directory, `->there` a symbolic link."""

SMALL = {
    "user": "10001:10001",
    "labels": {
        "org.opencontainers.image.base.name": "the-base",
        "bentovox.bento": "gateway",
        "bentovox.platform": "cpu",
        "bentovox.torch": "",
        "bentovox.budget-mib": "10",
    },
    "healthcheck": ["CMD", "bentovox-healthcheck"],
    "environment": ["PATH=/opt/venv/bin:/usr/bin"],
}


class Layouts:
    """Writes layouts into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(
        self,
        *layers: Files,
        name: str = "image",
        compression: str = "gzip",
        created_by: Sequence[str] = (),
        **config: Any,
    ) -> Path:
        root = self._folder / name
        (root / "blobs/sha256").mkdir(parents=True)
        said = {**SMALL, **config}
        raw = [archive(layer) for layer in layers]
        blobs = [self._blob(root, compressed(data, compression)) for data in raw]
        made = [created_by[at] if at < len(created_by) else f"made {at}" for at in range(len(raw))]
        described = self._blob(
            root,
            json.dumps(
                {
                    "config": {
                        "User": said["user"],
                        "Labels": said["labels"],
                        "Env": said["environment"],
                        "Healthcheck": {"Test": said["healthcheck"]},
                        "StopSignal": "SIGTERM",
                        "Entrypoint": ["tini", "--", "bentoml"],
                    },
                    "rootfs": {
                        "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in raw]
                    },
                    "history": [
                        {"created_by": "ENV A=1", "empty_layer": True},
                        *({"created_by": text} for text in made),
                    ],
                }
            ).encode(),
        )
        manifest = self._blob(root, json.dumps({"config": described, "layers": blobs}).encode())
        (root / "index.json").write_text(json.dumps({"manifests": [manifest]}))
        return root

    def archived(self, *layers: Files, name: str = "image", **config: Any) -> Path:
        """Make a layout as one archive, like `docker save` does."""
        root = self.make(*layers, name=f"{name}-folder", **config)
        path = self._folder / f"{name}.tar"
        with tarfile.open(path, "w") as out:
            for file in sorted(root.rglob("*")):
                out.add(file, file.relative_to(root).as_posix(), recursive=False)
        return path

    @staticmethod
    def _blob(root: Path, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}


def archive(files: Files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            if content is None:
                entry.type = tarfile.DIRTYPE
                made.addfile(entry)
            elif isinstance(content, str) and content.startswith("->"):
                entry.type, entry.linkname = tarfile.SYMTYPE, content[2:]
                made.addfile(entry)
            else:
                data = content.encode() if isinstance(content, str) else content
                entry.size = len(data)
                made.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def compressed(data: bytes, how: str) -> bytes:
    if how == "zstd":
        return zstd.compress(data)
    return gzip.compress(data, mtime=0) if how == "gzip" else data
