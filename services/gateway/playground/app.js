// The page as a whole: tabs, the key, and the lists that panels choose from.

import { get, key, words } from "./api.js";
import { element } from "./panel.js";
import "./chat.js";
import "./speech.js";
import "./transcription.js";
import "./conversation.js";
import "./translation.js";
import { list as listVoices } from "./voices.js";
import { watch } from "./status.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab, { focus = false } = {}) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    document.getElementById(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  const name = tab.getAttribute("aria-controls");
  document.title = `${tab.textContent} · Bentovox playground`;
  history.replaceState(null, "", `#${name}`);
  tab.scrollIntoView({ block: "nearest", inline: "center" });
  if (focus) tab.focus();
  watch(name === "status");
  if (name === "voices") listVoices();
}

const named = () => tabs.find((tab) => location.hash === `#${tab.getAttribute("aria-controls")}`);
for (const tab of tabs) {
  tab.onclick = () => choose(tab);
  tab.onkeydown = (event) => {
    const at = tabs.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(tabs.at(to % tabs.length), { focus: true });
  };
}
const column = matchMedia("(min-width: 60rem)");
const orient = () => document.querySelector("[role=tablist]").setAttribute("aria-orientation", column.matches ? "vertical" : "horizontal");
column.onchange = orient;
orient();
addEventListener("hashchange", () => { if (named()) choose(named()); });

const filled = new Map();

function fill(name, options) {
  const text = JSON.stringify(options);
  if (filled.get(name) === text) return; // a list that is open stays as it is
  filled.set(name, text);
  for (const select of document.querySelectorAll(`[data-list=${name}]`)) {
    const before = select.value;
    const kept = [...select.options].filter((one) => !one.value);
    select.replaceChildren(...kept, ...options.map(([value, text]) => element("option", text, { value })));
    if (options.some(([value]) => value === before)) select.value = before;
    else if (!kept.length && name === "languages") select.value = "en";
  }
}

const LISTS = {
  "chat-models": async () => (await get("v1/models")).data
    .filter((one) => one.owned_by !== "bentovox").map(({ id }) => [id, id]),
  voices: async () => (await get("v1/audio/voices")).data.map(({ id, name }) => [id, name]),
  languages: async () => (await get("languages")).map(({ code, name }) => [code, name]),
};

let again;

async function load() {
  clearTimeout(again);
  const failed = await Promise.all(Object.entries(LISTS).map(async ([name, find]) => {
    try {
      fill(name, await find());
    } catch (error) {
      return error;
    }
  }));
  const told = failed.filter((error) => error && error.status !== 404); // 404: a role that is not served
  const text = told.length ? words(told[0]) : "";
  const notice = document.getElementById("notice");
  if (notice.textContent !== text) notice.textContent = text;
  if (told.some((error) => error.status !== 401)) again = setTimeout(load, 3000); // it starts
  document.dispatchEvent(new Event("keychange")); // samples show what is chosen
}

const field = document.getElementById("key-field");
field.value = key.get();
field.onchange = () => { key.set(field.value); load(); };
document.getElementById("key").onsubmit = (event) => { event.preventDefault(); field.onchange(); };
document.addEventListener("voiceschange", load);
choose(named() ?? tabs[0]);
load();
