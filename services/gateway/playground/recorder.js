// Where a person records something, chooses a file or drops one.

import { words } from "./api.js";
import { loudness, microphone, wav, Wave } from "./audio.js";

export class Recorder {
  constructor(place, panel) {
    this.name = place.dataset.name;
    this.panel = panel;
    place.append(document.getElementById("recorder").content.cloneNode(true));
    this.find = (selector) => place.querySelector(selector);
    this.audio = this.find("audio");
    this.audio.setAttribute("aria-label", this.name);
    const input = this.find("input"), drop = this.find(".drop"), button = this.find(".record");
    button.setAttribute("aria-label", `Record: ${this.name}`);
    input.setAttribute("aria-label", `Choose a file: ${this.name}`);
    button.onclick = () => this.toggle(button);
    input.onchange = () => { if (input.files[0]) this.take(input.files[0]); };
    drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
    drop.ondragleave = () => drop.classList.remove("over");
    drop.ondrop = (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files[0]) this.take(event.dataTransfer.files[0]);
    };
  }

  async toggle(button) {
    if (this.open) {
      this.open.close();
      this.open = undefined;
      button.textContent = "Record again";
      this.take(new File([wav(this.pieces)], "recording.wav", { type: "audio/wav" }));
      return;
    }
    this.panel.fault();
    this.pieces = [];
    const wave = new Wave(this.find("canvas"));
    try {
      button.disabled = true;
      this.open = await microphone((piece) => {
        this.pieces.push(piece);
        wave.add(loudness(new Int16Array(piece)));
        this.find(".chosen").textContent = `Recording: ${Math.floor(this.pieces.length / 25)} s`;
      });
      button.textContent = "Stop recording";
    } catch (error) {
      this.find("canvas").hidden = true;
      this.panel.find(".fault").textContent = words(error);
    } finally {
      button.disabled = false;
    }
  }

  take(file) {
    this.file = file;
    this.find(".chosen").textContent = `${file.name}, ${Math.ceil(file.size / 1024)} KB`;
    this.find("canvas").hidden = true;
    URL.revokeObjectURL(this.audio.src);
    this.audio.src = URL.createObjectURL(file);
    this.audio.hidden = false;
    this.panel.show();
  }
}
