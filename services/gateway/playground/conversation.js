import { bytes } from "./audio.js";
import { bubble } from "./chat.js";
import { live } from "./live.js";
import { bearer, client, json, literal, Panel, url } from "./panel.js";

function session({ voice, instructions }) {
  return {
    type: "realtime",
    instructions,
    audio: {
      input: { transcription: { model: "whisper-1" }, turn_detection: { type: "server_vad" } },
      output: { voice },
    },
  };
}

function samples(values) {
  const { voice, instructions } = values;
  const settings = { type: "realtime", instructions, audio: { output: { voice } } };
  return {
    curl: `# curl holds no conversation; it makes the secret with which a page opens one.
curl ${url("v1/realtime/client_secrets")}${bearer()}${json({ session: settings })}`,
    python: `${client("AsyncOpenAI", "import asyncio\nimport base64\nimport wave\n")}

async def main() -> None:
    async with client.realtime.connect(model=${literal(values.model ?? "gpt-realtime")}) as live:
        await live.session.update(session=${literal(settings)})
        content = [{"type": "input_text", "text": "What is Bentovox?"}]
        await live.conversation.item.create(
            item={"type": "message", "role": "user", "content": content}
        )
        await live.response.create()
        with wave.open("answer.wav", "wb") as file:
            file.setparams((1, 2, 24_000, 0, "NONE", ""))
            async for event in live:
                if event.type == "response.output_audio.delta":
                    file.writeframes(base64.b64decode(event.delta))
                elif event.type == "response.done":
                    break


asyncio.run(main())
`,
  };
}

const panel = new Panel("conversation", samples);
const log = panel.find(".log");

panel.onsubmit(async (signal) => {
  const values = panel.values();
  const lines = new Map(); // by item
  let stopped; // when the server found the end of a turn
  const line = (id, role, who) => {
    if (!lines.has(id)) lines.set(id, bubble(log, role, who));
    log.scrollTop = log.scrollHeight;
    return lines.get(id);
  };
  log.textContent = "";
  log.hidden = false;
  const on = {
    "input_audio_buffer.speech_started": (event, player, send) => {
      panel.state("Listening…");
      const { owner, heard_ms } = player.stop();
      if (!owner) return;
      send({ type: "conversation.item.truncate", item_id: owner, content_index: 0, audio_end_ms: heard_ms });
      line(owner).parentElement.classList.add("cut");
    },
    "input_audio_buffer.speech_stopped": () => {
      stopped = performance.now();
      panel.state("Thinking…");
    },
    "conversation.item.added": ({ item }) => {
      if (item.type === "message") line(item.id, item.role, item.role === "user" ? "You" : "Answer");
    },
    "conversation.item.input_audio_transcription.completed": ({ item_id, transcript }) => {
      line(item_id, "user", "You").textContent = transcript.trim() || "(no words)";
    },
    "response.output_audio_transcript.delta": ({ item_id, delta }) => {
      line(item_id, "assistant", "Answer").textContent += delta;
    },
    "response.output_audio.delta": ({ item_id, delta }, player) => {
      if (stopped) {
        panel.find(".figures").textContent = "";
        panel.figure("end of turn to first sound", performance.now() - stopped);
        panel.state("Speaking: interrupt it if you like.");
        stopped = undefined;
      }
      player.play(bytes(delta), item_id);
    },
    "response.done": ({ response }) => {
      if (response.status === "failed")
        panel.find(".fault").textContent = response.status_details?.error?.message ?? "The answer failed. Look at Status.";
      else if (response.status === "completed") panel.state("Your turn.");
    },
  };
  await live(panel, signal, {
    path: "v1/realtime",
    model: values.model ?? "gpt-realtime",
    session: session(values),
    append: "input_audio_buffer.append",
    on,
  });
});
