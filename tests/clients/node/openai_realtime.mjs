// OpenAI's own SDK for JavaScript in a live conversation: `node openai_realtime.mjs URL RECORDING`.
// It speaks `wss:` only, whatever its base URL: so a proxy of ours ends TLS before the server.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import net from "node:net";
import tls from "node:tls";

import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";

import { tell } from "./telling.mjs";

const [url, wav] = process.argv.slice(2);
const made = ["key.pem", "cert.pem"].map((name) => `${import.meta.dirname}/${name}`);
const request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
const named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
execFileSync("openssl", [...request, ...named, "-keyout", made[0], "-out", made[1]], {
  stdio: "ignore",
});
const [key, cert] = made.map((path) => readFileSync(path));
tls.setDefaultCACertificates([cert.toString()]);
const { hostname, port } = new URL(url);
const proxy = tls.createServer({ key, cert }, (near) => {
  const far = net.connect(port, hostname);
  for (const end of [near, far]) end.on("error", () => {});
  near.pipe(far).pipe(near);
});
await new Promise((resolve) => proxy.listen(0, "localhost", resolve));
const baseURL = `https://localhost:${proxy.address().port}/v1`;
const client = new OpenAI({ baseURL, apiKey: "none" });
const recording = readFileSync(wav).subarray(44);
const stepBytes = 4800; // 100 ms
const number = { type: "integer" };
const add = {
  type: "function",
  name: "add",
  description: "Add two numbers.",
  parameters: { type: "object", properties: { a: number, b: number }, required: ["a", "b"] },
};

// A session whose events are waited for by their type.
class Live {
  constructor() {
    this.live = new OpenAIRealtimeWebSocket({ model: "gpt-realtime" }, client);
    this.events = [];
    this.waiting = () => {};
    this.live.on("event", (event) => {
      this.events.push(event);
      this.waiting();
    });
    this.failed = new Promise((_, reject) => this.live.on("error", reject));
    this.failed.catch(() => {});
  }

  send(type, fields = {}) {
    this.live.send({ type, ...fields });
  }

  async until(type) {
    const seen = [];
    while (seen.at(-1)?.type !== type) {
      if (this.events.length) seen.push(this.events.shift());
      else await Promise.race([new Promise((resolve) => (this.waiting = resolve)), this.failed]);
    }
    return seen;
  }

  play() {
    for (let begin = 0; begin < recording.length; begin += stepBytes) {
      const audio = recording.subarray(begin, begin + stepBytes).toString("base64");
      this.send("input_audio_buffer.append", { audio });
    }
  }
}

function soundSeconds(events) {
  const sound = events.filter((event) => event.type === "response.output_audio.delta");
  return sound.reduce((sum, event) => sum + Buffer.from(event.delta, "base64").length, 0) / 48_000;
}

async function called(live) {
  live.send("session.update", { session: { type: "realtime", instructions: "", tools: [add] } });
  const content = [{ type: "input_text", text: "Add 0 and 3." }];
  live.send("conversation.item.create", { item: { type: "message", role: "user", content } });
  live.send("response.create");
  const [call] = (await live.until("response.done")).at(-1).response.output;
  const given = JSON.parse(call.arguments);
  const { call_id } = call;
  const item = { type: "function_call_output", call_id, output: String(given.b) };
  live.send("conversation.item.create", { item });
  live.send("response.create");
  const events = await live.until("response.done");
  const answer = events.at(-1).response.output[0].content[0].transcript;
  return { arguments: given, answer, sound_s: soundSeconds(events) };
}

async function conversed(live) {
  const transcription = { model: "whisper-1", language: "en" };
  live.send("session.update", { session: { type: "realtime", audio: { input: { transcription } } } });
  live.play();
  const events = await live.until("response.done");
  const answer = events.at(-1).response.output[0];
  live.play();
  events.push(...(await live.until("input_audio_buffer.speech_started")));
  const where = { item_id: answer.id, content_index: 0 };
  live.send("conversation.item.truncate", { ...where, audio_end_ms: 500 });
  events.push(...(await live.until("conversation.item.truncated")));
  events.push(...(await live.until("response.done")));
  live.send("conversation.item.retrieve", { item_id: answer.id });
  const kept = (await live.until("conversation.item.retrieved")).at(-1).item;
  const ends = (event) => event.type.endsWith("transcription.completed");
  return {
    heard: events.filter(ends).map((event) => event.transcript),
    answer: answer.content[0].transcript,
    kept: kept.content[0].transcript,
    sound_s: soundSeconds(events),
  };
}

async function within(converse) {
  const live = new Live();
  await live.until("session.created");
  try {
    return await converse(live);
  } finally {
    live.live.close();
  }
}

await tell({ function: () => within(called), conversation: () => within(conversed) });
process.exit(); // not when the proxy's connections have ended
