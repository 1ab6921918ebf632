// What all panels have: a state, a fault, figures, and the same call as code.

import { key, root, words } from "./api.js";

const measured = new Map(); // what was measured: its milliseconds

export const latencies = () => measured;

export class Panel {
  /** `samples(form)` returns { curl, python } for what the form says now. */
  constructor(id, samples) {
    this.section = document.getElementById(id);
    this.form = this.find("form");
    this.section.append(document.getElementById("panel-end").content.cloneNode(true));
    const [curl, python] = this.section.querySelectorAll(".code pre");
    curl.setAttribute("aria-label", "curl");
    python.setAttribute("aria-label", "Python");
    this.show = () => {
      const made = samples(this.values());
      curl.textContent = made.curl;
      python.textContent = made.python;
    };
    this.find(".code").addEventListener("toggle", this.show);
    this.form?.addEventListener("input", this.show);
    document.addEventListener("keychange", this.show);
    for (const button of this.section.querySelectorAll(".copy")) button.onclick = () => copy(button);
    const stop = this.find(".stop");
    if (stop) stop.onclick = () => this.stopping?.abort();
  }

  find(selector) {
    return this.section.querySelector(selector);
  }

  /** Return the form's fields that say something. */
  values() {
    return Object.fromEntries([...new FormData(this.form ?? undefined)].filter(([, value]) => value));
  }

  state(text) {
    this.find(".state").textContent = text;
  }

  fault(error) {
    this.find(".fault").textContent = error ? words(error) : "";
  }

  /** Run `work(signal)` when the form is sent; Stop aborts the signal. */
  onsubmit(work) {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run(work);
    });
  }

  async run(work) {
    const main = this.find(".main"), stop = this.find(".stop");
    this.stopping = new AbortController();
    this.fault();
    this.state("");
    this.find(".figures").textContent = "";
    if (main) main.disabled = true;
    if (stop) stop.hidden = false;
    try {
      await work(this.stopping.signal);
    } catch (error) {
      this.state(error.name === "AbortError" ? "Stopped." : "");
      this.fault(error);
    } finally {
      if (main) main.disabled = false;
      if (stop) stop.hidden = true;
    }
  }

  /** Show a figure, and keep it for Status. */
  figure(what, ms) {
    const name = `${this.find("h2").textContent}: ${what}`;
    measured.set(name, [...(measured.get(name) ?? []), ms]);
    this.tell(`${what} ${duration(ms)}`);
  }

  tell(text) {
    const figures = this.find(".figures");
    figures.textContent = [figures.textContent, text].filter(Boolean).join(" · ");
  }
}

export const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

/** Return an element with text and attributes. */
export function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key_, value] of Object.entries(attributes)) made.setAttribute(key_, value);
  return made;
}

// For samples.

export const shell = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
export const literal = (value) => JSON.stringify(value);
export const url = (path) => shell(new URL(path, root));
export const bearer = () => (key.get() ? ' \\\n  -H "authorization: Bearer $OPENAI_API_KEY"' : "");
export const form = (fields) =>
  Object.entries(fields).map(([name, value]) => ` \\\n  --form ${shell(`${name}=${value}`)}`).join("");
export const json = (body) =>
  ` \\\n  -H 'content-type: application/json' \\\n  -d ${shell(JSON.stringify(body))}`;
export const keywords = (fields) =>
  Object.entries(fields).map(([name, value]) => `    ${name}=${literal(value)},\n`).join("");
export const client = (name = "OpenAI", more = "") => {
  const given = key.get() ? "" : ', api_key="none"'; // else it reads OPENAI_API_KEY
  return `${more}
from openai import ${name}

client = ${name}(base_url=${literal(new URL("v1", root).href)}${given})
`.trimStart();
};

async function copy(button) {
  const text = button.parentElement.querySelector("pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch { // no clipboard without HTTPS
    getSelection().selectAllChildren(text);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}
