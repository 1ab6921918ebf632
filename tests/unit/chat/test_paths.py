from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from services.errors import MethodNotAllowedError, NotFoundError
from services.openai.paths import MODELS, ROUTES
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell


@pytest.fixture
def shell() -> Shell:
    async def never(_scope: Any, _receive: Any, _send: Any) -> None:
        pytest.fail("called")

    return Shell(
        RoleApp(
            role="chat",
            handlers=dict.fromkeys((*ROUTES["chat"], *MODELS), never),
            limits=Limits(8, 8, 30),
            body_limit_bytes=1,
            readiness=lambda: Readiness("ready", {}),
            lifespan=nullcontext,  # type: ignore[arg-type]
        )
    )


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/sleep",
        "/wake_up",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/start_profile",
        "/server_info",
        "/docs",
        "/openapi.json",
        "/v1/chat/completions/",
        "/v1/chat/completions/render",
        "//v1/chat/completions",
        "/V1/chat/completions",
        "/v1/responses/resp_1",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_public_api_is_404(shell: Shell, method: str, path: str) -> None:
    with pytest.raises(NotFoundError):
        shell.route(method, path)


@pytest.mark.parametrize("path", [path for _, path in ROUTES["chat"]])
def test_generating_is_by_post_only(shell: Shell, path: str) -> None:
    assert shell.route("POST", path) == path
    with pytest.raises(MethodNotAllowedError):
        shell.route("GET", path)


@pytest.mark.parametrize("name", ["m", "Qwen/Qwen3-0.6B", "a/b/c"])
def test_a_models_id_may_hold_slashes(shell: Shell, name: str) -> None:
    assert shell.route("GET", f"/v1/models/{name}") == "/v1/models/{*}"
