// A microphone, a WebSocket and a loudspeaker: what a conversation and a live translation share.

import { Failure, socket } from "./api.js";
import { base64, loudness, microphone, Player, Wave } from "./audio.js";

/**
 * Send what the microphone hears and hand each of the server's events to `on[type](event, player, send)`
 * until the signal aborts, and then, if there is `goodbye`, until the server closes.
 */
export async function live(panel, signal, { path, model, session, append, goodbye, on }) {
  const wave = new Wave(panel.find(".wave"));
  const player = new Player();
  let connection, fault, failed;
  const send = (event) => {
    const open = connection?.readyState === WebSocket.OPEN;
    if (open) connection.send(JSON.stringify(event));
    return open;
  };
  panel.state("Opening the microphone…");
  const mic = await microphone((piece) => {
    wave.add(loudness(new Int16Array(piece)), player.level());
    if (!signal.aborted) send({ type: append, audio: base64(piece) });
  });
  try {
    panel.state("Connecting…");
    connection = await socket(path, { model });
    send({ type: "session.update", session });
    panel.state("Listening: speak.");
    await new Promise((ended) => {
      connection.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        fault = event.type === "error" ? new Failure(event.error.message) : undefined;
        if (fault) panel.fault(fault);
        else on[event.type]?.(event, player, send);
      };
      connection.onclose = ({ code, reason }) => {
        if (!signal.aborted) failed = fault ?? new Failure( // what it said last is why
          `The server ended the connection (${reason || code}). Start again, and look at Status.`);
        ended();
      };
      const leave = () => {
        mic.close();
        if (!goodbye) connection.close();
        else if (send(goodbye)) panel.state("Finishing what was said…");
      };
      if (signal.aborted) leave();
      signal.addEventListener("abort", leave);
    });
    if (failed) throw failed;
    if (goodbye) await player.ended();
    panel.state("Ended.");
  } finally {
    mic.close();
    connection?.close();
    player.close();
  }
}
