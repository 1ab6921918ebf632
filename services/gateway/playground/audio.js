// Sound in and out, as 16-bit PCM at 24 kHz, and how it looks.

import { Failure, root } from "./api.js";

export const RATE_HZ = 24000;

const DENIED = {
  NotAllowedError: "The browser was told not to give this page the microphone. Allow it in the " +
    "site's settings, left of the address, and try again.",
  NotFoundError: "No microphone was found. Plug one in, or use a file.",
  NotReadableError: "Another program holds the microphone. Close it, and try again.",
};

/** Open the microphone; `hear(ArrayBuffer)` gets it in pieces of 40 ms. */
export async function microphone(hear) {
  if (!navigator.mediaDevices) throw new Failure(
    `Browsers give no microphone to a page that came over plain HTTP from another machine. Open ` +
    `it over HTTPS, or through a tunnel: ssh -L ${root.port || 3000}:localhost:${root.port || 3000} ` +
    `${root.hostname}, and then http://localhost:${root.port || 3000}. Files work here too.`);
  let stream;
  try {
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw DENIED[error.name] ? new Failure(DENIED[error.name]) : error;
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
  const worklet = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  worklet.port.onmessage = ({ data }) => hear(data);
  context.createMediaStreamSource(stream).connect(worklet);
  await context.resume();
  return {
    close: () => {
      worklet.port.onmessage = null;
      for (const track of stream.getTracks()) track.stop();
      if (context.state !== "closed") context.close();
    },
  };
}

/** Plays pieces one after the other as they come. */
export class Player {
  constructor() {
    this.context = new AudioContext();
    this.pieces = []; // { owner, node, start, seconds }
    this.end = 0;
  }

  play(bytes, owner) {
    const samples = new Int16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 1);
    const buffer = this.context.createBuffer(1, samples.length, RATE_HZ);
    buffer.getChannelData(0).set(Float32Array.from(samples, (one) => one / 32768));
    const node = new AudioBufferSourceNode(this.context, { buffer });
    node.connect(this.context.destination);
    const start = Math.max(this.end, this.context.currentTime + 0.02);
    node.start(start);
    this.end = start + buffer.duration;
    this.pieces.push({ owner, node, start, samples, seconds: buffer.duration });
  }

  get playing() {
    return this.end > this.context.currentTime;
  }

  async ended() {
    while (this.playing) await new Promise((passed) => setTimeout(passed, 100));
  }

  /** Return how loud it is now, 0 to 1. */
  level() {
    const now = this.context.currentTime;
    const piece = this.pieces.find((one) => one.start <= now && now < one.start + one.seconds);
    if (!piece) return 0;
    const at = Math.floor((now - piece.start) * RATE_HZ);
    return loudness(piece.samples.subarray(at, at + 960));
  }

  /** Stop at once; return whose sound it was and how many milliseconds of it were heard. */
  stop() {
    const now = this.context.currentTime;
    const owner = this.playing ? this.pieces.at(-1).owner : undefined;
    const heard = this.pieces.filter((one) => one.owner === owner)
      .reduce((sum, one) => sum + Math.min(Math.max(now - one.start, 0), one.seconds), 0);
    for (const { node } of this.pieces) node.stop();
    this.pieces = [];
    this.end = 0;
    return { owner, heard_ms: Math.floor(heard * 1000) };
  }

  close() {
    this.stop();
    this.context.close();
  }
}

export function loudness(samples) {
  let sum = 0;
  for (const one of samples) sum += one * one;
  return Math.min(1, Math.sqrt(sum / (samples.length || 1)) / 32768 * 3);
}

/** Draws how loud it was, a bar for each 40 ms: those who speak above each other, the newest right. */
export class Wave {
  constructor(canvas) {
    this.canvas = canvas;
    this.bars = [];
    canvas.hidden = false;
  }

  add(you, answer = 0) {
    const { canvas, bars } = this;
    const [wide, high, step] = [canvas.width, canvas.height, 10];
    bars.push([you, answer]);
    if (bars.length > wide / step) bars.shift();
    const colours = getComputedStyle(canvas);
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, wide, high);
    bars.forEach((levels, index) => {
      const x = wide - (bars.length - index) * step;
      ["--you", "--answer"].forEach((name, which) => {
        pen.fillStyle = colours.getPropertyValue(name);
        const tall = Math.max(which ? 0 : 4, levels[which] * high);
        pen.fillRect(x + which * 3, (high - tall) / 2, which ? 3 : 6, tall);
      });
    });
  }
}

/** Return a WAV file of pieces of PCM. */
export function wav(pieces) {
  const data = new Blob(pieces);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((one, i) => head.setUint8(at + i, one.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + data.size, true); text(8, "WAVEfmt ");
  head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
  head.setUint32(24, RATE_HZ, true); head.setUint32(28, RATE_HZ * 2, true);
  head.setUint16(32, 2, true); head.setUint16(34, 16, true);
  text(36, "data"); head.setUint32(40, data.size, true);
  return new Blob([head, data], { type: "audio/wav" });
}

export function base64(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}

export function bytes(text) {
  return Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
}
