import { ask, Failure, get } from "./api.js";
import { bearer, client, element, form, literal, Panel, shell, url } from "./panel.js";
import { Recorder } from "./recorder.js";
import { body, hear } from "./speech.js";

const VOICES = "v1/audio/voices";
const CONSENTS = "v1/audio/voice_consents";
const SAMPLE = "This is how I sound when I read a sentence that I was never recorded with.";

function samples({ person = "Anna", language = "en", name = "anna", text = "These are the words that are heard." }) {
  return {
    curl: `curl ${url(CONSENTS)}${bearer()}${form({ name: person, language })} \\\n  --form recording=@consent.wav

# with the id in its answer:
curl ${url(VOICES)}${bearer()}${form({ name, text })} \\\n  --form "consent=$CONSENT" \\\n  --form audio_sample=@sample.wav

curl --request DELETE ${url(`${VOICES}/${name}`)}${bearer()}`,
    python: `${client("OpenAI", "from pathlib import Path\n")}
consent = client.audio.voice_consents.create(
    name=${literal(person)}, language=${literal(language)}, recording=Path("consent.wav")
)
client.audio.voices.create(
    name=${literal(name)},
    consent=consent.id,
    audio_sample=Path("sample.wav"),
    extra_body={"text": ${literal(text)}},
)
`,
  };
}

const panel = new Panel("voices", samples);
const [consent, sample] = [...panel.section.querySelectorAll(".recorder")].map((one) => new Recorder(one, panel));
const audio = panel.find("h3 + audio");

function post(path, fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value) data.append(name, value);
  return ask(path, { method: "POST", body: data });
}

panel.onsubmit(async () => {
  const { person, language, name, text } = panel.values();
  if (!consent.file) throw new Failure("The recording of the consent is missing: record it or choose a file.");
  if (!sample.file) throw new Failure("The sample of the voice is missing: record it or choose a file.");
  panel.state("Storing…");
  const made = await (await post(CONSENTS, { name: person, language, recording: consent.file })).json();
  try {
    await post(VOICES, { name, text, consent: made.id, audio_sample: sample.file });
  } catch (error) {
    await ask(`${CONSENTS}/${made.id}`, { method: "DELETE" }); // it belongs to no voice
    throw error;
  }
  panel.state(`The voice ${name} can speak now.`);
  await changed();
});

async function changed() {
  document.dispatchEvent(new Event("voiceschange"));
  await list();
}

function row(title, detail, ...buttons) {
  const made = element("li");
  const text = element("span", title);
  text.append(element("small", detail));
  made.append(text, ...buttons);
  return made;
}

function action(text, name, work, kind = "") {
  const button = element("button", text, { type: "button", "aria-label": `${text} ${name}`, class: kind });
  button.onclick = () => panel.run(work);
  return button;
}

function speak({ id, name }) {
  return action("Try", name, async (signal) => {
    const asked = body({ voice: id, input: SAMPLE, response_format: "mp3" });
    const began = performance.now();
    panel.state(`${name} speaks…`);
    const answer = await ask("v1/audio/speech", { json: asked, signal });
    audio.hidden = false;
    await hear(answer, audio, "audio/mpeg", () => panel.figure("first audio", performance.now() - began));
    panel.state("");
  });
}

function remove(path, { id, name }) {
  return action("Delete", name, async () => {
    if (!confirm(`Delete ${name}, with its recording? This cannot be undone.`)) return;
    await ask(`${path}/${id}`, { method: "DELETE" });
    panel.state(`${name} was deleted.`);
    await changed();
  }, "danger");
}

/** Show what is there now. */
export async function list() {
  try {
    const voices = (await get(VOICES)).data;
    panel.find(".voice-list").replaceChildren(...voices.map((one) => {
      const ours = one.object === "audio.voice" && one.consent;
      const detail = ours ? `yours · ${one.id}` : one.languages.slice(0, 3).join(", ");
      return row(one.name, detail, speak(one), ...(ours ? [remove(VOICES, one)] : []));
    }));
    const consents = (await get(`${CONSENTS}?limit=100`)).data;
    const rows = consents.map((one) => row(one.name, `${one.language} · ${one.id}`, remove(CONSENTS, one)));
    panel.find(".consent-list").replaceChildren(...(rows.length ? rows : [element("li", "None yet.", { class: "hint" })]));
  } catch (error) {
    panel.fault(error);
  }
}
