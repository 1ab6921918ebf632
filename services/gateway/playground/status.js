import { get, root, words } from "./api.js";
import { bearer, client, duration, element, latencies, Panel, url } from "./panel.js";

const EVERY_MS = 5000;

const samples = () => ({
  curl: `curl ${url("readyz")}\ncurl ${url("v1/models")}${bearer()}`,
  python: `${client()}
for model in client.models.list():
    print(model.id)
`,
});

const panel = new Panel("status", samples);
let timer;

/** Look again and again while the panel is shown. */
export function watch(shown) {
  clearInterval(timer);
  if (!shown) return;
  look();
  timer = setInterval(look, EVERY_MS);
}

async function look() {
  try {
    // 503 has the same body: nothing is ready.
    const { detail } = await (await fetch(new URL("readyz", root))).json();
    panel.find(".roles").replaceChildren(...Object.entries(detail).map(([role, state]) => {
      const made = element("div");
      made.append(element("dt", role), element("dd", state, { "data-state": state.split(/\W/)[0] }));
      return made;
    }));
    const models = (await get("v1/models")).data;
    panel.find(".chips").replaceChildren(...models.map(({ id, max_model_len: tokens }) =>
      element("li", tokens ? `${id}, ${tokens} tokens` : id)));
    panel.fault();
  } catch (error) {
    const said = words(error);
    const fault = panel.find(".fault");
    if (fault.textContent !== said) fault.textContent = said;
  }
  const rows = [...latencies()].map(([name, all]) => {
    const made = element("tr");
    made.append(element("th", name, { scope: "row" }), element("td", duration(all.at(-1))), element("td", duration(Math.min(...all))), element("td", all.length));
    return made;
  });
  panel.find(".latency").hidden = !rows.length;
  panel.find(".latency tbody").replaceChildren(...rows);
  panel.find(".latency-hint").textContent = rows.length ? "Measured on this page, network included." : "Nothing was measured yet: try another panel.";
}
