"""The arguments and environment variables that vLLM starts with."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from services.errors import ConfigurationError
from services.hub import HubModel, is_hub_id
from services.settings.sections import ChatSettings

DEMO_NAME = "bentovox-demo"
DEMO_DIRECTORY = Path(__file__).with_name("demo_model")


class ServedModel(NamedTuple):
    """What vLLM loads, a path or id, and the name that clients use."""

    source: str
    name: str


def resolve(chat: ChatSettings) -> ServedModel:
    """Return the model of these settings; ConfigurationError if it is none, or not there."""
    if chat.model == DEMO_NAME:
        return ServedModel(str(DEMO_DIRECTORY), chat.served_model_name or DEMO_NAME)
    path = Path(chat.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigurationError(
                f"BENTOVOX_CHAT__MODEL={chat.model}: the directory has no config.json; give a "
                "model directory in Hugging Face's layout."
            )
        return ServedModel(str(path), chat.served_model_name or path.resolve().name)
    if not is_hub_id(chat.model):
        raise ConfigurationError(
            f"BENTOVOX_CHAT__MODEL={chat.model}: there is no such directory, and it is no Hugging "
            f"Face id such as Qwen/Qwen3-0.6B; `{DEMO_NAME}` is shipped."
        )
    hub = HubModel(chat.model, ("config.json",), chat.revision or "main")
    if hub.is_offline and hub.cached() is None:
        raise ConfigurationError(
            f"BENTOVOX_CHAT__MODEL={chat.model} is not in {hub.cache}, and HF_HUB_OFFLINE is set; "
            f"unset it once to download, or run `hf download {chat.model}` where a hub can be "
            "reached."
        )
    return ServedModel(chat.model, chat.served_model_name or chat.model)


log = logging.getLogger("bentovox.chat")


def parse_arguments(chat: ChatSettings, model: ServedModel) -> Any:
    """Return vLLM's own parsed arguments for these settings."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    valued = {
        "--model": model.source,
        "--served-model-name": model.name,
        "--dtype": chat.dtype,
        "--shutdown-timeout": str(chat.shutdown_s),
        # With the default, the first constraint after a start decides which library compiles all.
        "--structured-outputs-config.backend": "xgrammar",
        "--revision": chat.revision,
        "--max-model-len": chat.max_model_len,
        "--tensor-parallel-size": chat.tensor_parallel_size,
        "--pipeline-parallel-size": chat.pipeline_parallel_size,
        "--kv-cache-memory-bytes": chat.kv_cache_memory,
        "--tool-call-parser": chat.tool_parser,
        "--reasoning-parser": chat.reasoning_parser,
        "--distributed-executor-backend": "uni" if computes_here(chat) else "",
    }
    arguments = [part for name, value in valued.items() if value for part in (name, str(value))]
    flags = {
        "--enforce-eager": chat.enforce_eager,
        "--trust-remote-code": chat.trust_remote_code,
        "--enable-auto-tool-choice": chat.tool_parser,
        "--enable-sleep-mode": sleeps_after_s(chat),
    }
    arguments += [name for name, wanted in flags.items() if wanted]
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args([*arguments, *chat.args])
    validate_parsed_serve_args(parsed)
    return parsed


def engine_arguments(chat: ChatSettings, model: ServedModel) -> dict[str, Any]:
    """Return those of vLLM's arguments that are not its defaults, by its names for them.

    The model, its name and the executor are not among them: Ray's `LLMConfig` sets these.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # The machine that plans a replica, such as Ray's head, may have no GPU to be found.
    current_platform.device_type = current_platform.device_type or "cuda"
    usual = vars(make_arg_parser(FlexibleArgumentParser()).parse_args([]))
    given = vars(parse_arguments(chat, model))
    apart = {"model", "served_model_name", "distributed_executor_backend", "model_tag"}
    return {
        name: value
        for name, value in given.items()
        if name not in apart and value != usual.get(name)
    }


def runs_code(chat: ChatSettings) -> bool:
    """Return whether Python code from the model's directory or repository will run."""
    asked = (argument.replace("_", "-") for argument in chat.args)
    return chat.trust_remote_code or "--trust-remote-code" in asked


def sleeps_after_s(chat: ChatSettings) -> float:
    """Return after how many idle seconds vLLM is to sleep; 0: never, as on a CPU."""
    return 0 if on_cpu(chat) else chat.idle_s


def computes_here(chat: ChatSettings) -> bool:
    """Return whether the model runs in vLLM's own process: on a CPU, with one rank."""
    return on_cpu(chat) and chat.tensor_parallel_size * chat.pipeline_parallel_size == 1


def on_cpu(chat: ChatSettings) -> bool:
    """Return whether vLLM will compute on the CPU."""
    if chat.device != "auto":
        return chat.device == "cpu"
    return not any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "nvidiactl", "dxg"))  # noqa: PTH110


def environment(chat: ChatSettings) -> dict[str, str]:
    """Return the variables that vLLM reads at import, with the operator's values where there are.

    They hold on any machine.
    """
    defaults = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",  # its INFO drowns our lines; set INFO to see them
    }
    if chat.enforce_eager:
        # Otherwise the first request with logprobs compiles for 9 s.
        defaults["TORCHDYNAMO_DISABLE"] = "1"
    if on_cpu(chat):
        defaults["VLLM_HOST_IP"] = "127.0.0.1"
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # With the uni executor the model runs in this process, at twice the throughput.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # oneDNN keeps what it made for each length of a batch: 1024 of them hold half a gigabyte.
        defaults["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "64"
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def set_environment(chat: ChatSettings) -> None:
    """Set the variables that vLLM reads at import, unless the operator has set them."""
    os.environ.update(environment(chat))
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # all of it is on this machine
    if on_cpu(chat):
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // 2)))
    settle_cache()
    if sys.dont_write_bytecode:
        log.warning("PYTHONDONTWRITEBYTECODE is set: vLLM starts three times slower")


def settle_cache() -> None:
    """Let vLLM use its default cache if the configured one cannot be written.

    The configured one is a volume that makes the next start quicker; a container may lack it.
    """
    cache = os.environ.get("VLLM_CACHE_ROOT")
    if not cache:
        return
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        del os.environ["VLLM_CACHE_ROOT"]
        log.info("no cache for a quicker next start: %s: %s", cache, error.strerror)
