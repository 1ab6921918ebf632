// OpenAI's own SDK for JavaScript as a client: `node openai_node.mjs URL RECORDING QUESTION`.

import { createReadStream } from "node:fs";

import OpenAI from "openai";

import { tell } from "./telling.mjs";

const [url, recording, question] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const model = "bentovox-demo";
const chat = { model, messages: [{ role: "user", content: question }], temperature: 0 };

async function streamed() {
  let text = "";
  for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  return text;
}

async function responded() {
  let text = "";
  const events = await client.responses.create({
    model,
    input: question,
    temperature: 0,
    stream: true,
  });
  for await (const event of events) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  return text;
}

async function spoken(response_format) {
  const answer = await client.audio.speech.create({
    model: "gpt-4o-mini-tts",
    voice: "alloy",
    input: "Hello.",
    response_format,
  });
  return (await answer.arrayBuffer()).byteLength;
}

function heard(more) {
  const file = createReadStream(recording);
  return client.audio.transcriptions.create({ model: "whisper-1", file, ...more });
}

async function heardInPieces() {
  let text = "";
  for await (const event of await heard({ model: "gpt-4o-transcribe", stream: true })) {
    if (event.type === "transcript.text.delta") text += event.delta;
  }
  return text.trim();
}

async function refused() {
  try {
    await client.audio.speech.create({ model: "tts-1", voice: "nobody", input: "Hello." });
  } catch (error) {
    return [error.status, error.param, error instanceof OpenAI.NotFoundError];
  }
}

await tell({
  models: async () => (await client.models.list()).data.map((one) => one.id),
  chat: async () => (await client.chat.completions.create(chat)).choices[0].message.content,
  "chat streamed": streamed,
  "responses streamed": responded,
  speech: () => spoken("pcm"),
  transcription: async () => (await heard()).text,
  "transcription streamed": heardInPieces,
  error: refused,
});
