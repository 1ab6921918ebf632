// The microphone as 16-bit PCM at 24 kHz, in pieces of 40 ms. An AudioWorklet: a file of its own.

const RATE_HZ = 24000;
const PIECE = RATE_HZ * 0.04;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / RATE_HZ; // samples in for each one out
    this.sum = this.weight = 0;
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }

  /** A sample out is the mean of the samples in that it covers, which also keeps most aliases out. */
  process([[samples]]) {
    for (const sample of samples ?? []) {
      let left = 1; // of this sample
      while (left > 1e-9) {
        const taken = Math.min(left, this.step - this.weight);
        this.sum += sample * taken;
        this.weight += taken;
        left -= taken;
        if (this.weight > this.step - 1e-9) this.put(this.sum / this.step);
      }
    }
    return true;
  }

  put(value) {
    this.sum = this.weight = 0;
    this.piece[this.filled++] = Math.max(-1, Math.min(1, value)) * 32767;
    if (this.filled < PIECE) return;
    this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);
