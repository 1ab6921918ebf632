import { ask, events } from "./api.js";
import { bearer, client, element, json, keywords, literal, Panel, url } from "./panel.js";

const PATH = "v1/chat/completions";
const messages = [];

function body({ model, instructions, max_tokens, text }) {
  const system = instructions ? [{ role: "system", content: instructions }] : [];
  const last = text ? [{ role: "user", content: text }] : [];
  return { model, messages: [...system, ...messages, ...last], max_tokens: Number(max_tokens) || undefined };
}

function samples(values) {
  const { messages: said, ...rest } = body({ text: messages.length ? "" : "What is Bentovox?", ...values });
  const stream = { model: rest.model, messages: said, ...rest, stream: true };
  return {
    curl: `curl --no-buffer ${url(PATH)}${bearer()}${json(stream)}`,
    python: `${client()}
stream = client.chat.completions.create(
${keywords(rest)}    messages=${literal(said)},
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
`,
  };
}

const panel = new Panel("chat", samples);
const log = panel.find(".log");
const box = panel.form.elements.text;

/** Add a message to a log, and return the element for its text. */
export function bubble(into, role, who, text = "") {
  const made = element("div", "", { class: `message ${role}` });
  const words = element("p", text);
  made.append(element("span", who, { class: "who" }), words);
  into.append(made);
  into.scrollTop = into.scrollHeight;
  return words;
}

panel.onsubmit(async (signal) => {
  const values = panel.values();
  const began = performance.now();
  const asked = body(values);
  messages.push({ role: "user", content: values.text });
  bubble(log, "user", "You", values.text);
  box.value = "";
  const answer = bubble(log, "assistant", values.model ?? "Assistant");
  log.setAttribute("aria-busy", "true"); // a reader speaks the whole answer, not each word
  let usage, first, end;
  try {
    const options = { json: { ...asked, stream: true, stream_options: { include_usage: true } }, signal };
    for await (const chunk of events(await ask(PATH, options))) {
      usage = chunk.usage ?? usage;
      const delta = chunk.choices[0]?.delta;
      end = chunk.choices[0]?.finish_reason ?? end;
      const piece = delta?.content ?? "";
      if (!piece) continue;
      first ??= performance.now();
      answer.textContent += piece;
      log.scrollTop = log.scrollHeight;
    }
    if (first) panel.figure("first token", first - began);
    const seconds = (performance.now() - first) / 1000;
    if (usage && seconds > 0) {
      panel.tell(`${usage.completion_tokens} tokens`);
      panel.tell(`${Math.round(usage.completion_tokens / seconds)} per second`);
    }
    if (end === "length") panel.state("The answer reached the longest length; see Settings.");
  } finally {
    log.removeAttribute("aria-busy");
    if (!answer.isConnected) return; // a new chat has begun
    if (answer.textContent) messages.push({ role: "assistant", content: answer.textContent });
    else { // nothing came: let the person try again
      messages.pop();
      answer.parentElement.previousSibling.remove();
      answer.parentElement.remove();
      box.value = values.text;
    }
    panel.show();
    box.focus();
  }
});

box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    panel.form.requestSubmit();
  }
});

panel.find(".clear").onclick = () => {
  panel.stopping?.abort();
  messages.length = 0;
  log.textContent = "";
  panel.state("A new chat.");
  panel.show();
  box.focus();
};
