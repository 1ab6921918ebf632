// Vercel's AI SDK as a client: `node ai_sdk.mjs URL RECORDING QUESTION`.

import { readFile } from "node:fs/promises";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateSpeech, generateText, jsonSchema, Output, streamText, tool, transcribe } from "ai";

import { tell } from "./telling.mjs";

const [url, recording, prompt] = process.argv.slice(2);
const to = { baseURL: `${url}/v1`, apiKey: "none" };
const openai = createOpenAI(to);
const compatible = createOpenAICompatible({
  name: "bentovox",
  supportsStructuredOutputs: true,
  ...to,
});
const options = { prompt, temperature: 0, maxRetries: 0 };
const models = {
  chat: openai.chat("bentovox-demo"),
  responses: openai.responses("bentovox-demo"),
  compatible: compatible("bentovox-demo"),
};
const audio = await readFile(recording);

async function text(model) {
  return (await generateText({ model, ...options })).text;
}

async function streamed(model) {
  let errors;
  const result = streamText({ model, ...options, onError: ({ error }) => (errors = error) });
  let text = "";
  for await (const piece of result.textStream) text += piece;
  if (errors) throw errors;
  return text;
}

async function called() {
  const inputSchema = object({ city: { type: "string" } });
  const { toolCalls } = await generateText({
    model: models.chat,
    ...options,
    prompt: "What is the weather in Paris?",
    maxOutputTokens: 200,
    tools: { get_weather: tool({ description: "The weather in a city.", inputSchema }) },
    toolChoice: { type: "tool", toolName: "get_weather" },
  });
  return toolCalls.map((one) => [one.toolName, one.input]);
}

async function made(model) {
  const schema = object({ name: { type: "string" }, age: { type: "integer" } });
  const result = await generateText({
    model,
    ...options,
    prompt: "Give me a person as JSON.",
    maxOutputTokens: 200,
    output: Output.object({ schema }),
  });
  return result.output;
}

function object(properties) {
  const required = Object.keys(properties);
  return jsonSchema({ type: "object", properties, required, additionalProperties: false });
}

async function spoken(model, outputFormat, more = {}) {
  const { audio } = await generateSpeech({
    model: openai.speech(model),
    text: "Hello from the server.",
    voice: "alloy",
    outputFormat,
    maxRetries: 0,
    ...more,
  });
  return audio.uint8Array.length;
}

async function heard(model, granularities) {
  const { text, segments, language, durationInSeconds } = await transcribe({
    model: openai.transcription(model),
    audio,
    maxRetries: 0,
    ...(granularities && {
      providerOptions: { openai: { timestampGranularities: granularities, language: "en" } },
    }),
  });
  return { text, segments, language, durationInSeconds };
}

await tell({
  chat: () => text(models.chat),
  "chat streamed": () => streamed(models.chat),
  "compatible streamed": () => streamed(models.compatible),
  responses: () => text(models.responses),
  "responses streamed": () => streamed(models.responses),
  tools: called,
  objects: () => made(models.chat),
  "objects, compatible": () => made(models.compatible),
  mp3: () => spoken("tts-1", "mp3"),
  wav: () => spoken("gpt-4o-mini-tts", "wav", { speed: 1.5 }),
  instructions: () => spoken("gpt-4o-mini-tts", "mp3", { instructions: "Speak cheerfully." }),
  transcription: () => heard("gpt-4o-mini-transcribe"),
  "transcription by default": () => heard("whisper-1"),
  segments: () => heard("whisper-1", ["segment"]),
  words: () => heard("whisper-1", ["word"]),
});
