import { bytes } from "./audio.js";
import { live } from "./live.js";
import { bearer, client, form, keywords, literal, Panel, url } from "./panel.js";

const MODEL = "gpt-realtime-translate";
const session = ({ language }) => ({
  audio: { input: { transcription: { model: "whisper-1" } }, output: { language } },
});

function samples(values) {
  return {
    curl: `# Of a recording; live translation takes a WebSocket.
curl ${url("v1/audio/speech-translations")}${bearer()}${form(values)} \\\n  --form file=@recording.wav \\\n  --output translation.mp3`,
    python: "",
  };
}

const panel = new Panel("translation", samples);

panel.onsubmit(async (signal) => {
  const values = panel.values();
  const heard = panel.find(".heard"), said = panel.find(".said");
  heard.textContent = said.textContent = "";
  panel.find(".columns").hidden = false;
  const on = {
    "session.input_transcript.delta": ({ delta }) => { heard.textContent += delta; },
    "session.output_transcript.delta": ({ delta }) => { said.textContent += delta; },
    "session.output_audio.delta": ({ delta }, player) => player.play(bytes(delta)),
  };
  await live(panel, signal, {
    path: `v1/realtime/translations?model=${MODEL}`,
    kind: "translation",
    session: session(values),
    append: "session.input_audio_buffer.append",
    goodbye: { type: "session.close" },
    on: (event, ...rest) => on[event.type]?.(event, ...rest),
  });
});
