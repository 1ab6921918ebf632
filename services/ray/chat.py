"""Chat as a Ray Serve application: Ray starts vLLM and places its workers, the chat role serves.

Ray's `LLMConfig` makes of the settings what a replica needs: a bundle of resources for each rank of
tensor and pipeline parallelism, on one machine or several. The engine's application then stands in
the role's shell, as elsewhere.
"""

from __future__ import annotations

from typing import Any, Final

from ray import serve
from ray.llm._internal.serve.engines.vllm import vllm_models
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer

from services.chat.arguments import computes_here, engine_arguments, on_cpu, resolve, settle_cache
from services.chat.service import Chat
from services.ray.config import deployment_of
from services.ray.replica import Mounted
from services.settings import settings

_ALMOST_NONE: Final = 0.001  # on a CPU the ranks are the replica's own processes, counted with it


class ChatServer(LLMServer):  # type: ignore[misc]  # Ray ships no types that mypy is shown
    """One replica of chat."""

    async def start(self) -> None:
        """Load the model."""
        chat = settings().chat
        settle_cache()
        if computes_here(chat):
            # LLMConfig has no setting for it; with `mp` a further process would run the model.
            vllm_models.EXECUTOR_BACKEND_MP = "uni"
        await super().start()

    async def __serve_build_asgi_app__(self) -> Any:
        started = await super().__serve_build_asgi_app__()
        self._app = Mounted(Chat.shell(started=started), "chat")
        return self._app

    async def check_health(self) -> None:
        """Tell Ray to replace a replica whose engine has died."""
        self._app.check_health()
        await super().check_health()


def build(args: dict[str, Any]) -> Any:
    """Return chat's application, whose replicas have what `args` and the settings ask for."""
    chat = settings().chat
    model = resolve(chat)
    of_actor = dict(args["ray_actor_options"])
    if on_cpu(chat):
        kind, bundle = "cpu", {"CPU": _ALMOST_NONE}
    else:
        kind, bundle = "gpu", {"GPU": of_actor.pop("num_gpus")}
    config = LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": model.source},
        engine_kwargs=engine_arguments(chat, model),
        accelerator_type=args["accelerator_type"] or None,
        accelerator_config={"kind": kind},
        placement_group_config={"bundle_per_worker": bundle},
        deployment_config={"ray_actor_options": of_actor},
        log_engine_metrics=False,  # vLLM's own metrics, at the role's /metrics
    )
    return build_llm_deployment(
        config,
        deployment_cls=serve.ingress()(ChatServer),
        override_serve_options={"name": deployment_of("chat")},
    )
