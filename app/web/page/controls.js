// What a person may adjust: the parameters of the mask, and those of the outlines.

import { $, number } from "./dom.js";

const MASK = ["threshold", "min_confidence", "min_area"], OUTLINES = ["simplify", "rectify"];

/** The controls under "Adjust". `onInput(name)` is told while one moves, `onReset` of the reset. */
export class Controls {
  #chosen = {};
  #own = { threshold: 0.5, min_confidence: 0, min_area: 0, simplify: 0, rectify: "none" };
  #units = { area: "m²", length: "m" };

  constructor(onInput, onReset) {
    for (const name of [...MASK, ...OUTLINES]) {
      $(name).oninput = ({ target }) => {
        const value = name === "rectify" ? (target.checked ? "orthogonal" : "none") : Number(target.value);
        this.#chosen[name] = value;
        if (name !== "threshold" && name !== "min_confidence" && value === this.#own[name]) {
          delete this.#chosen[name];
        }
        this.#show();
        onInput(name);
      };
    }
    $("reset").onclick = () => {
      this.#chosen = {};
      this.#show();
      $("threshold").focus();
      onReset();
    };
    this.#show();
  }

  /** Take the bundle's own values, and the units of an image. */
  open({ threshold }, hasGsd) {
    Object.assign(this.#own, { threshold: threshold.value, min_confidence: threshold.min_confidence });
    this.#units = hasGsd ? { area: "m²", length: "m" } : { area: "px", length: "px" };
    this.#show();
  }

  value(name) { return this.#chosen[name] ?? this.#own[name]; }

  /** Parameters of the mask: none where nothing was chosen, so that the service's own hold. */
  get mask() {
    const { threshold, min_confidence: confidence, min_area: area } = this.#chosen;
    const decided = threshold !== undefined || confidence !== undefined;
    return {
      // Both: the service's own minimum confidence depends on the threshold.
      ...(decided && { threshold: this.value("threshold"), min_confidence: this.value("min_confidence") }),
      ...(area !== undefined && { min_area: area }),
    };
  }

  /** Parameters of the outlines. */
  get outlines() {
    return Object.fromEntries(OUTLINES.filter((n) => n in this.#chosen).map((n) => [n, this.#chosen[n]]));
  }

  get all() { return { ...this.mask, ...this.outlines }; }

  #show() {
    const text = {
      threshold: (value) => String(+value.toFixed(4)),
      min_confidence: (value) => String(+value.toFixed(4)),
      min_area: (value) => (value ? `${number(value)} ${this.#units.area}` : "any size"),
      simplify: (value) => (value ? `${number(value)} ${this.#units.length}` : "as they are"),
    };
    for (const [name, write] of Object.entries(text)) {
      const value = this.value(name), said = write(value);
      $(name).value = value;
      $(name).setAttribute("aria-valuetext", said);
      $(`${name}-value`).textContent = said;
    }
    $("rectify").checked = this.value("rectify") !== "none";
    $("reset").hidden = !Object.keys(this.#chosen).length;
  }
}
