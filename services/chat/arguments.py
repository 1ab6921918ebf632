"""What vLLM is started with: its arguments and its environment."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.chat.served_model import ChatModel
    from services.settings.sections import ChatSettings

log = logging.getLogger("bentovox.chat")


def parse_arguments(chat: ChatSettings, model: ChatModel) -> Any:
    """Return vLLM's own parsed arguments for these settings."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # fmt: off
    arguments = [
        "--model", model.source,
        "--served-model-name", model.name,
        "--dtype", chat.dtype,
        "--shutdown-timeout", str(chat.shutdown_s),
        # By default the first constraint of a server's life decides which library compiles all.
        "--structured-outputs-config.backend", "xgrammar",
    ]
    # fmt: on
    valued = {
        "--revision": chat.revision,
        "--max-model-len": chat.max_model_len,
        "--kv-cache-memory-bytes": chat.kv_cache_memory,
        "--tool-call-parser": chat.tool_parser,
        "--reasoning-parser": chat.reasoning_parser,
        "--distributed-executor-backend": "uni" if on_cpu(chat) else "",
    }
    arguments += [part for name, value in valued.items() if value for part in (name, str(value))]
    flags = {
        "--enforce-eager": chat.enforce_eager,
        "--trust-remote-code": chat.trust_remote_code,
        "--enable-auto-tool-choice": chat.tool_parser,
    }
    arguments += [name for name, wanted in flags.items() if wanted]
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args([*arguments, *chat.args])
    validate_parsed_serve_args(parsed)
    return parsed


def runs_code(chat: ChatSettings) -> bool:
    """Tell whether Python code that the model brings along will be run."""
    asked = (argument.replace("_", "-") for argument in chat.args)
    return chat.trust_remote_code or "--trust-remote-code" in asked


def on_cpu(chat: ChatSettings) -> bool:
    """Tell whether vLLM will compute on the CPU."""
    if chat.device != "auto":
        return chat.device == "cpu"
    return not any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "nvidiactl", "dxg"))  # noqa: PTH110


def set_environment(chat: ChatSettings) -> None:
    """Set what vLLM reads from the environment at import; what the operator set stays."""
    defaults = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "WARNING",  # its INFO hides our lines; set it to see all
    }
    if chat.enforce_eager:
        # The first request with logprobs would compile for 9 s.
        defaults["TORCHDYNAMO_DISABLE"] = "1"
    if on_cpu(chat):
        cores = len(os.sched_getaffinity(0))
        defaults["OMP_NUM_THREADS"] = str(max(1, cores // 2))
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # With the uni executor: the model in the engine's own process, twice the throughput.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    settle_cache()
    if sys.dont_write_bytecode:
        log.warning("PYTHONDONTWRITEBYTECODE is set: vLLM starts three times slower")


def settle_cache() -> None:
    """Leave vLLM its own place for what it compiles and finds out where ours cannot be written.

    Ours is a volume, so that the next start is quicker; a container may run without one.
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
        log.info("nothing is kept for a quicker start: %s: %s", cache, error.strerror)
