#!/usr/bin/python3 -IS
"""Docker's health check: 0 if this container's server answers 200 at /readyz, or where it is told.

`/livez` is another path, `name:8265/healthz` that of another server of the container's.
"""

import http
import http.client
import os
import sys

server, _, path = (sys.argv[1] if len(sys.argv) > 1 else "/readyz").partition("/")
port = int(os.environ.get("BENTOML_PORT") or os.environ.get("PORT") or "3000")
try:
    connection = http.client.HTTPConnection(server or f"127.0.0.1:{port}", timeout=4)
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    print(answer.status, answer.read(400).decode(errors="replace"))
    sys.exit(0 if answer.status == http.HTTPStatus.OK else 1)
except (OSError, http.client.HTTPException) as error:
    print(f"{server or f'port {port}'}: {error!r}")
    sys.exit(1)
