import { bytes } from "./audio.js";
import { live } from "./live.js";
import { bearer, client, form, literal, Panel, url } from "./panel.js";

const MODEL = "gpt-realtime-translate"; // stands for the model that is served

const session = (output) => ({ audio: { input: { transcription: { model: "whisper-1" } }, output } });

function samples(values) {
  return {
    curl: `# curl does not speak live; this translates a recording.
curl ${url("v1/audio/speech-translations")}${bearer()}${form(values)} \\\n  --form file=@recording.wav \\\n  --output translation.mp3`,
    python: `${client("AsyncOpenAI", "import asyncio\nimport base64\nimport wave\n")}

async def speak(live) -> None:
    with wave.open("recording.wav") as file:  # 16 bits, mono, 24 kHz
        while piece := file.readframes(2400):
            audio = base64.b64encode(piece).decode()
            await live.session.input_audio_buffer.append(audio=audio)
            await asyncio.sleep(0.1)  # a microphone is no faster
    await live.session.close()


async def main() -> None:
    async with client.realtime.translations.connect(model=${literal(MODEL)}) as live:
        await live.session.update(session=${literal(session(values))})
        speaking = asyncio.create_task(speak(live))
        with wave.open("translation.wav", "wb") as file:
            file.setparams((1, 2, 24_000, 0, "NONE", ""))
            async for event in live:
                if event.type == "session.output_transcript.delta":
                    print(event.delta, end="", flush=True)
                elif event.type == "session.output_audio.delta":
                    file.writeframes(base64.b64decode(event.delta))
                elif event.type == "session.closed":
                    break
        await speaking


asyncio.run(main())
`,
  };
}

const panel = new Panel("translation", samples);
const heard = panel.find(".heard"), said = panel.find(".said");

panel.onsubmit(async (signal) => {
  heard.textContent = said.textContent = "";
  panel.find(".columns").hidden = false;
  let began; // when the first words were understood
  const on = {
    "session.input_transcript.delta": ({ delta }) => {
      began ??= performance.now();
      heard.textContent += delta;
    },
    "session.output_transcript.delta": ({ delta }) => { said.textContent += delta; },
    "session.output_audio.delta": ({ delta }, player) => {
      if (began) panel.figure("first words to first sound", performance.now() - began);
      began = null;
      player.play(bytes(delta));
    },
  };
  await live(panel, signal, {
    path: "v1/realtime/translations",
    model: MODEL,
    session: session(panel.values()),
    append: "session.input_audio_buffer.append",
    goodbye: { type: "session.close" },
    on,
  });
});
