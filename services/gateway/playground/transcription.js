import { ask, events, Failure } from "./api.js";
import { bearer, client, duration, element, form, keywords, literal, Panel, shell, url } from "./panel.js";
import { Recorder } from "./recorder.js";

const PATH = "v1/audio/transcriptions";
const FIXED = { model: "whisper-1", response_format: "verbose_json" };

function samples(values) {
  const fields = { ...FIXED, ...values };
  const file = recorder?.file?.name ?? "recording.wav";
  return {
    curl: `curl --no-buffer ${url(PATH)}${bearer()}${form({ ...fields, stream: "true" })} \\\n  --form file=@${shell(file)}`,
    python: `${client("OpenAI", "from pathlib import Path\n")}
stream = client.audio.transcriptions.create(
    file=Path(${literal(file)}),
${keywords(fields)}    stream=True,
)
for event in stream:
    if event.type == "transcript.text.segment":
        print(f"{event.start:8.2f}", event.text)
`,
  };
}

let recorder;
const panel = new Panel("transcription", samples);
recorder = new Recorder(panel.find(".recorder"), panel);
const list = panel.find(".transcript");

const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

function segment({ start, end, text }) {
  const line = element("li");
  const play = element("button", clock(start), { type: "button", class: "time", "aria-label": `Play from ${clock(start)} to ${clock(end)}` });
  play.onclick = () => {
    recorder.audio.currentTime = start;
    recorder.audio.play();
  };
  line.append(play, element("span", text.trim()));
  list.append(line);
}

panel.onsubmit(async (signal) => {
  if (!recorder.file) throw new Failure("There is nothing to transcribe yet: record something or choose a file.");
  const data = new FormData();
  for (const [name, value] of Object.entries({ ...FIXED, stream: "true", ...panel.values() })) data.append(name, value);
  data.append("file", recorder.file);
  const began = performance.now();
  panel.state("Listening…");
  list.textContent = "";
  list.hidden = false;
  for await (const event of events(await ask(PATH, { method: "POST", body: data, signal }))) {
    if (event.type !== "transcript.text.segment") continue;
    if (!list.children.length) panel.figure("first words", performance.now() - began);
    segment(event);
  }
  list.hidden = !list.children.length;
  panel.state(list.children.length ? "Done." : "No speech was found in it.");
  const seconds = recorder.audio.duration;
  const took = performance.now() - began;
  panel.tell(`whole ${duration(took)}`);
  if (Number.isFinite(seconds)) panel.tell(`${clock(seconds)} of sound`);
});
