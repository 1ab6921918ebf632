// Where the server is, how it is asked, and what its refusals mean.

export const root = new URL("..", document.baseURI); // the page is at playground/ below it

const STORE = "bentovox-key";
export const key = {
  get: () => sessionStorage.getItem(STORE) ?? "",
  set: (text) => sessionStorage.setItem(STORE, text.replace(/[^\x21-\x7e]/g, "")),
};

const ADVICE = {
  401: "Put a key of this server into the field “API key”.",
  413: "Choose something smaller.",
  429: "All places are taken: try again in a moment.",
  502: "Look at Status; the role may be restarting.",
  503: "Look at Status: it says what is ready.",
  504: "Look at Status; the role may be overloaded.",
};

/** What a person is told: the reason, and what to do. */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Ask the server; return its answer, or throw a Failure. */
export async function ask(path, { json, ...init } = {}) {
  const headers = new Headers();
  if (key.get()) headers.set("authorization", `Bearer ${key.get()}`);
  if (json) {
    headers.set("content-type", "application/json");
    init = { ...init, method: "POST", body: JSON.stringify(json) };
  }
  const answer = await fetch(new URL(path, root), { ...init, headers });
  if (answer.ok) return answer;
  const text = await answer.text();
  let said = `The server answered ${answer.status}.`;
  try {
    said = JSON.parse(text).error.message;
  } catch { /* a proxy's own page */ }
  throw new Failure([said, ADVICE[answer.status]].filter(Boolean).join(" "), answer.status);
}

export const get = async (path) => (await ask(path)).json();

/** Yield the events of a stream of server-sent events. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: ?/gm, "");
      if (!data || data === "[DONE]" || block.startsWith(":")) continue;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(event.error.message);
      yield event;
    }
  }
}

/** Open a WebSocket of the realtime protocol; with a key, by a secret that lasts a minute. */
export async function socket(path, query) {
  const protocols = ["realtime"];
  if (key.get()) {
    const json = { expires_after: { anchor: "created_at", seconds: 60 } };
    const secret = await (await ask(`${path}/client_secrets`, { json })).json();
    protocols.push(`openai-insecure-api-key.${secret.value}`);
  }
  const url = new URL(path, root);
  url.search = new URLSearchParams(query);
  url.protocol = url.protocol.replace("http", "ws");
  const made = new WebSocket(url, protocols);
  await new Promise((opened, failed) => {
    made.onopen = opened;
    made.onerror = () => failed(new Failure(
      "The connection was refused. Look at Status: chat, speech, transcription and conversation " +
      "must be ready. Behind a proxy, it must pass WebSockets and the Host header on."));
  });
  return made;
}

/** Say in words what went wrong; nothing for what the person stopped. */
export function words(error) {
  if (error.name === "AbortError") return "";
  if (error instanceof Failure) return error.message;
  if (error instanceof TypeError && /fetch|network|load/i.test(error.message))
    return `The connection to ${root.host} failed or broke off. Is the server running?`;
  console.error(error);
  return `Something went wrong on this page: ${error.message}`;
}
