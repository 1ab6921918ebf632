import { ask } from "./api.js";
import { RATE_HZ, wav } from "./audio.js";
import { bearer, client, duration, json, keywords, Panel, url } from "./panel.js";

const PATH = "v1/audio/speech";
const TYPES = { mp3: "audio/mpeg", opus: "audio/ogg", aac: "audio/aac", flac: "audio/flac", wav: "audio/wav", pcm: "audio/pcm" };

export function body({ input, voice, response_format, speed, instructions }) {
  const rate = Number(speed ?? 1);
  return {
    model: "tts-1", voice, input, response_format,
    ...(rate === 1 ? {} : { speed: rate }),
    ...(instructions ? { instructions } : {}),
  };
}

function samples(values) {
  const asked = body(values);
  const file = `speech.${asked.response_format}`;
  return {
    curl: `curl ${url(PATH)}${bearer()}${json(asked)} \\\n  --output ${file}`,
    python: `${client()}
with client.audio.speech.with_streaming_response.create(
${keywords(asked)}) as answer:
    answer.stream_to_file("${file}")
`,
  };
}

const panel = new Panel("speech", samples);
const audio = panel.find("audio");
const link = panel.find(".download");

/** Play an answer from its first bytes on, where the browser can; return all of its pieces. */
export async function hear(answer, player, type, first) {
  const pieces = [];
  const live = globalThis.MediaSource?.isTypeSupported(type) ? new MediaSource() : undefined;
  let buffer;
  URL.revokeObjectURL(player.src);
  if (live) {
    player.src = URL.createObjectURL(live);
    await new Promise((opened) => live.addEventListener("sourceopen", opened, { once: true }));
    buffer = live.addSourceBuffer(type);
    player.play().catch(() => {}); // the person presses play, if the browser wants that
  }
  try {
    const reader = answer.body.getReader();
    for (let one = await reader.read(); !one.done; one = await reader.read()) {
      if (!pieces.length) first();
      pieces.push(one.value);
      if (!buffer) continue;
      buffer.appendBuffer(one.value);
      await new Promise((done) => buffer.addEventListener("updateend", done, { once: true }));
    }
  } catch (error) {
    player.pause();
    throw error;
  }
  if (live) {
    live.endOfStream();
  } else {
    player.src = URL.createObjectURL(type === TYPES.pcm ? wav(pieces) : new Blob(pieces, { type }));
    player.play().catch(() => {});
  }
  return new Blob(pieces, { type });
}

panel.onsubmit(async (signal) => {
  const asked = body(panel.values());
  const began = performance.now();
  panel.state("Speaking…");
  panel.find(".result").hidden = false;
  link.hidden = true;
  const answer = await ask(PATH, { json: asked, signal });
  const type = TYPES[asked.response_format];
  const sound = await hear(answer, audio, type, () => {
    panel.figure("first audio", performance.now() - began);
  });
  panel.state("Done.");
  panel.tell(`whole ${duration(performance.now() - began)}`);
  panel.tell(`${Math.ceil(sound.size / 1024)} KB`);
  if (asked.response_format === "pcm") panel.tell(`16 bits, mono, ${RATE_HZ} Hz`);
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(sound);
  link.download = `speech.${asked.response_format}`;
  link.textContent = `Download speech.${asked.response_format}`;
  link.hidden = false;
});
