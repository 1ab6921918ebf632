"""All settings, section by section; `services.settings` reads their values."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

SPEECH_MODELS: Final = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")
TRANSCRIPTION_MODELS: Final = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-realtime-whisper",
    "gpt-live-transcribe",
)
"""OpenAI's names, which any engine answers to, so that clients need not change."""

_MIB: Final = 1 << 20
_ASKED: Final = ("chat", "speech", "transcription", "conversation")


def _named(folder: str) -> str:
    if not folder.strip():
        raise PydanticCustomError(
            "empty", "it is empty; name a folder, or leave the setting out to have the usual one"
        )
    return folder


class Section(BaseModel):
    """A named part of the settings; the text below a setting is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Have each description in one line."""
        for field in cls.model_fields.values():
            field.description = " ".join((field.description or "").split()) or None


class RoleSettings(Section):
    """The settings of every role: how much it takes on at once."""

    slots: int = Field(16, ge=1)
    """Requests served at the same time."""
    queue: int = Field(32, ge=0)
    """Requests that may wait for a slot; more get 429."""
    deadline_s: float = Field(30, gt=0)
    """Longest wait for a slot, in seconds; then 429."""
    body_limit_mib: float = Field(36, gt=0)
    """Largest request body or upload, in MiB; a larger one gets 413."""
    body_memory_mib: float = Field(512, gt=0)
    """Memory for the bodies of all requests together, in MiB; then 429."""

    @property
    def body_limit_bytes(self) -> int:
        """Return the largest request body in bytes."""
        return int(self.body_limit_mib * _MIB)

    @property
    def body_memory_bytes(self) -> int:
        """Return the largest total of all request bodies in bytes."""
        return int(self.body_memory_mib * _MIB)


class EngineSettings(RoleSettings):
    """The settings of every role with an engine."""

    idle_s: float = Field(0, ge=0)
    """After how many seconds without a request the engine is unloaded, to give its memory back; the
    next request loads it again. 0: never."""


class ChatSettings(EngineSettings):
    """The chat role: vLLM's OpenAI server, mounted in process."""

    body_limit_mib: float = Field(8, gt=0)
    """Largest request body, in MiB; a larger one gets 413."""
    model: str = "bentovox-demo"
    """A model directory, a Hugging Face id, or `bentovox-demo`, which is included."""
    served_model_name: str = ""
    """The name that clients use; empty: the id, or the directory's name."""
    revision: str = ""
    """Commit or tag of a Hugging Face model; empty: main."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where vLLM computes; auto takes a GPU when there is one."""
    dtype: str = "auto"
    """vLLM's --dtype."""
    max_model_len: int = Field(0, ge=0)
    """Longest context, in tokens; 0: the model's own."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs over which each layer of the model is split."""
    pipeline_parallel_size: int = Field(1, ge=1)
    """Stages into which the model's layers are divided, each on GPUs apart."""
    kv_cache_memory: str = ""
    """vLLM's --kv-cache-memory-bytes, such as 64M; empty: vLLM measures."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs: starts sooner, generates slower."""
    tool_parser: str = ""
    """vLLM's --tool-call-parser, such as hermes; empty: no automatic tool calls."""
    reasoning_parser: str = ""
    """vLLM's --reasoning-parser, such as qwen3; empty: reasoning stays in the text."""
    args: list[str] = []
    """More arguments of `vllm serve`, as a JSON list; replaces the profile's list."""
    trust_remote_code: bool = False
    """Run Python code from the model's directory or repository."""
    request_sequences: int = Field(32, ge=1)
    """Most answers to one request: `n` times its prompts; more get 400."""
    request_batch: int = Field(1024, ge=1)
    """Most texts to embed, score or rank in one request."""
    request_items: int = Field(4096, ge=1)
    """Most objects and strings in one field of a request."""
    grammar_kib: int = Field(64, ge=1)
    """Longest constraint on the answers of one request, in KiB: choices, a regex, a grammar, a
    schema, or those of the tools it forces."""
    grammar_items: int = Field(2000, ge=1)
    """Most choices, enum values and properties in such a constraint."""
    grammar_s: float = Field(10, gt=0)
    """Longest compilation of a constraint, in seconds; in a process of its own."""
    shutdown_s: int = Field(20, ge=0)
    """Seconds that running answers have to finish after SIGTERM."""


class ChosenEngineSettings(EngineSettings):
    """The settings of a role with several engines; each has a section of its name, if any."""

    engine: str

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the chosen engine's constructor."""
        section = getattr(self, self.engine, None)
        if not isinstance(section, Section):
            return {}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in section
        }


class HubModelSettings(Section):
    """A model in this process, from a directory or from Hugging Face."""

    model: str
    revision: str = ""
    """Commit, tag or branch; empty: the pinned commit, or the main branch of what is not pinned.
    The log says which commit was taken: set it here to pin it."""
    cache: str = ""
    """Folder for downloads; empty: that of the hub's own tools."""


class CosyVoiceSettings(HubModelSettings):
    """The engine `cosyvoice`: upstream's models in this process."""

    model: str = "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"
    """A model directory, or an id on Hugging Face."""
    llm: str = "llm.pt"
    """The file with the language model's weights; Fun-CosyVoice3 also has llm.rl.pt, learned
    further by reinforcement: fewer words go wrong."""
    lexicon: str = ""
    """A file with words that the model says wrong, and how to spell them for it, as a JSON object:
    {"SQL": "sequel"}."""
    code: str = ""
    """Upstream's code, as `python -m ci cosyvoice` brings it; empty:
    ~/.cache/bentovox/cosyvoice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes; auto takes a GPU when there is one."""
    fp16: bool = False
    """Half precision on a GPU: less memory and time, slightly other audio."""
    tensorrt: bool = False
    """The flow's estimator in TensorRT: faster; builds a plan for this GPU at the first start,
    needs tensorrt and a writable model directory; 60 s a segment at most."""


class KokoroSettings(HubModelSettings):
    """The engine `kokoro`: Kokoro-82M on onnxruntime, on CPUs."""

    model: str = "onnx-community/Kokoro-82M-v1.0-ONNX"
    """A model directory, or an id on Hugging Face."""
    file: str = "onnx/model_quantized.onnx"
    """The graph in it: another precision is another file. A directory may have a model.onnx
    instead."""
    threads: int = Field(0, ge=0)
    """CPU threads of the model; 0: one a core."""


class VllmOmniSettings(Section):
    """The engine `vllm_omni`: family 3 through a vLLM-Omni server."""

    url: str = ""
    """Where the vLLM-Omni server is; this engine needs one, and starts none."""
    api_key: SecretStr = SecretStr("")
    """What that server was given as --api-key."""


class SpeechSettings(ChosenEngineSettings):
    """The speech role."""

    slots: int = Field(16, ge=1)
    """Requests served at the same time; fewer where cosyvoice or kokoro cannot make so many without
    a gap."""
    engine: str = "espeak"
    """The engine: espeak (embedded, no download), kokoro (natural voices on a CPU), cosyvoice or
    vllm_omni."""
    models: list[str] = list(SPEECH_MODELS)
    """Model names it answers to, as a JSON list, beside the engine's own."""
    voices: dict[str, str] = {}
    """OpenAI's or your own voice names, and the voice each stands for: one of the engine's, or a
    registered one's name or id."""
    store: Annotated[str, AfterValidator(_named)] = "~/.local/share/bentovox/voices"
    """Folder of registered voices and consents; several containers may share it."""
    ref_audio: Literal["consent", "open", "off"] = "consent"
    """A request's own recording to speak like: with the id of a consent, freely, or not at all."""
    cosyvoice: CosyVoiceSettings = CosyVoiceSettings()
    kokoro: KokoroSettings = KokoroSettings()
    vllm_omni: VllmOmniSettings = VllmOmniSettings()


class FasterWhisperSettings(HubModelSettings):
    """The engine `faster_whisper`: Whisper's models on CTranslate2."""

    model: str = "tiny"
    """A size that faster-whisper names (tiny, small, large-v3-turbo), a Hugging Face id, or a
    directory with a CTranslate2 model."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes; auto takes a GPU when there is one."""
    compute_type: str = "default"
    """CTranslate2's: default, int8, float16, float32 and others."""
    threads: int = Field(0, ge=0)
    """CPU threads of the model; 0: one a core."""
    batch: int = Field(8, ge=1)
    """Windows of 30 s, of any requests, that the model hears together."""
    beam_size: int = Field(5, ge=1)
    """Hypotheses kept in decoding; 1: greedy, faster."""


class TranscriptionSettings(ChosenEngineSettings):
    """The transcription role: files and live speech to text."""

    slots: int = Field(32, ge=1)
    """Recordings, and live sessions in which somebody speaks, at once."""
    queue: int = Field(64, ge=0)
    """Requests that may wait for a slot; past them 429."""
    engine: str = "faster_whisper"
    """The engine: faster_whisper, or pocketsphinx (no download, US English only, misses many
    words)."""
    stand_in: Literal["", "pocketsphinx"] = ""
    """An engine that hears while the other has no model; empty: none does."""
    models: list[str] = list(TRANSCRIPTION_MODELS)
    """OpenAI's model names that are answered to beside the engine's own."""
    max_hours: float = Field(6, gt=0)
    """Longest recording, hours; above it 413."""
    faster_whisper: FasterWhisperSettings = FasterWhisperSettings()


class AskingSettings(RoleSettings):
    """A role that asks other roles; where no URLs are set, those in the same stack."""

    chat: list[str] = []
    """URLs of chat backends, or of what knows them (docs/replicas.md); empty: those in the same
    stack."""
    speech: list[str] = []
    """URLs of speech backends; empty: those in the same stack."""
    transcription: list[str] = []
    """URLs of transcription backends; empty: those in the same stack."""
    connect_timeout_s: float = Field(5, gt=0)
    """Longest wait for a connection to a backend."""
    answer_timeout_s: float = Field(600, gt=0)
    """Longest wait for a backend's first byte; then 504."""
    probe_interval_s: float = Field(1, gt=0)
    """Seconds between probes of a backend."""
    hold_s: float = Field(0, ge=0)
    """How long a request may wait for a role without a ready backend, in seconds: one that starts,
    or scales up from zero. For each role, as many wait as `queue` says: with 0 none does, and
    nothing wakes a role that was scaled to zero. 0: refuse at once."""

    @property
    def backends(self) -> dict[str, list[str]]:
        """Return the URLs of each role."""
        return {role: getattr(self, role) for role in _ASKED if hasattr(self, role)}


class TranslationSettings(Section):
    """Translation by the chat backends, of texts and of speech."""

    model: str = ""
    """The chat model that translates; empty: the first one served."""
    char_limit: int = Field(10_000, ge=1)
    """Longest text of POST /translate, in characters; a longer one gets 413."""
    batch_limit: int = Field(100, ge=1)
    """Most texts of one POST /translate."""
    total_limit: int = Field(300_000, ge=1)
    """Most characters in all texts of a request, counted once per target language; more get 413."""
    piece_limit: int = Field(2000, ge=1)
    """Most pieces of one request, each a question to chat: sentences, cells, texts between tags;
    more get 413."""
    parallel: int = Field(4, ge=1)
    """Pieces of one POST /translate that chat works on at the same time."""
    speech_slots: int = Field(16, ge=1)
    """Speech translations served at the same time; as many more may wait."""


class RealtimeSettings(Section):
    """Live conversations and translations."""

    model: str = ""
    """The chat model that answers where a client names one of OpenAI's; empty: the first one
    served."""
    sessions: int = Field(100, ge=1)
    """Live conversations and translations at the same time; more get 429."""
    min_speech_duration_ms: int = Field(0, ge=0, le=10_000)
    """How long speech has to last, in milliseconds, to interrupt and to be a turn; clients may set
    their own."""


class ConversationSettings(AskingSettings):
    """The conversation role: what takes several engines. It also uses the gateway's URLs."""

    slots: int = Field(16, ge=1)
    """POST /translate and /detect served at the same time."""
    queue: int = Field(64, ge=0)
    """Those that may wait for a slot; more get 429."""
    translation: TranslationSettings = TranslationSettings()
    realtime: RealtimeSettings = RealtimeSettings()


class GatewaySettings(AskingSettings):
    """The gateway: the front door."""

    slots: int = Field(512, ge=1)
    """Requests served at the same time."""
    queue: int = Field(512, ge=0)
    """Requests that may wait for a slot; more get 429."""
    json_limit_mib: float = Field(16, gt=0)
    """Largest request body that is not a form, in MiB; a larger one gets 413."""
    conversation: list[str] = []
    """URLs of conversation backends; empty: those in the same stack."""
    keys: SecretStr = SecretStr("")
    """API keys as `name:sha256-hash`, comma-separated; made by `python -m services.gateway.keys`.
    Empty here and in keys_file: open to all."""
    keys_file: str = ""
    """A file with such keys, one per line; # starts a comment."""
    affinity_ahead: int = Field(8, ge=0)
    """Related requests go to the same backend, where its cache helps: by x-session-id, or else the
    beginning of the prompt, or the voice. This is how many requests more than the least loaded one
    a backend may have from this gateway and still get them; with several gateways, eight divided by
    their number. 0: related requests go anywhere."""
    cors_origins: list[str] = []
    """Origins whose pages may call from a browser; `*` allows all."""
    playground: bool = True
    """Serve the playground at /playground/, and lead there from /. The page needs no key; what it
    asks for does."""

    @property
    def json_limit_bytes(self) -> int:
        """Return the largest body that is not a form, in bytes."""
        return int(min(self.json_limit_mib, self.body_limit_mib) * _MIB)


class RaySettings(Section):
    """The roles on Ray Serve: `python -m services.ray`."""

    head_host: str = "127.0.0.1"
    """Name or address of Ray's head: where it listens, and where others find it."""
    dashboard_port: int = Field(8265, ge=1)
    """Where Ray's dashboard and API listen on the head."""
    api_port: int = Field(3000, ge=1)
    """Where the gateway in front of Ray listens."""
    min_replicas: int = Field(1, ge=0)
    """Fewest replicas of each role."""
    max_replicas: int = Field(1, ge=1)
    """Most replicas of each role."""
    target_ongoing_requests: float = Field(8, gt=0)
    """Requests that one replica should have at work; Ray scales by it."""
    accelerator_type: str = ""
    """The GPU that chat's replicas need, in Ray's words, such as H100."""
    options: dict[str, dict[str, Any]] = {}
    """Ray Serve's deployment options of a role, which replace those made of these settings, such as
    `{"speech": {"ray_actor_options": {"num_gpus": 0.5}}}`."""


class LogSettings(Section):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe messages to log."""
    access: bool = True
    """Log a line per request."""


DOCUMENTED: Final = {
    "MODEL_ID": "chat.model",
    "TENSOR_PARALLEL_SIZE": "chat.tensor_parallel_size",
    "PIPELINE_PARALLEL_SIZE": "chat.pipeline_parallel_size",
    "ACCELERATOR_TYPE": "ray.accelerator_type",
    "MIN_REPLICAS": "ray.min_replicas",
    "MAX_REPLICAS": "ray.max_replicas",
    "TARGET_ONGOING_REQUESTS": "ray.target_ongoing_requests",
    "RAY_HEAD_HOST": "ray.head_host",
    "RAY_API_PORT": "ray.api_port",
    "RAY_DASHBOARD_PORT": "ray.dashboard_port",
}
"""Further names of settings: those that deployments of vLLM on Ray use."""
