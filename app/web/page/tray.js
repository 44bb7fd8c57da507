// The list of images: one button each, with a thumbnail and how far it is.

import { $, element, percent } from "./dom.js";

const THUMBNAIL = 80;  // pixels: 40 on a screen of two per point

/** Shows the images of a queue. `onShow` and `onRemove` are told which one was clicked. */
export class Tray {
  #entries = new Map();

  constructor(onShow, onRemove) { Object.assign(this, { onShow, onRemove }); }

  /** Show what has become of an image. */
  update(image) {
    if (!this.#entries.has(image)) this.#add(image);
    const { item, picture, state } = this.#entries.get(image);
    state.textContent = stateOf(image);
    item.classList.toggle("failed", image.state === "failed");
    if (image.picture && picture.dataset.of !== `${image.picture.width}`) {
      picture.dataset.of = image.picture.width;
      thumbnail(picture, image.picture);
    }
  }

  /** Mark the image that is on the stage. */
  mark(image) {
    for (const [each, { button }] of this.#entries) {
      if (each === image) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    this.#entries.get(image)?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  remove(image) {
    this.#entries.get(image).item.remove();
    this.#entries.delete(image);
  }

  #add(image) {
    const picture = element("canvas", { width: THUMBNAIL, height: THUMBNAIL, "aria-hidden": "true" });
    const state = element("small");
    const button = element("button", { type: "button", onclick: () => this.onShow(image) },
      picture, element("b", { title: image.name }, image.name), state);
    const remove = element("button", {
      type: "button", class: "plain remove", title: "Remove, here and from the service", "aria-label": `Remove ${image.name}`,
      onclick: () => this.onRemove(image),
    }, "×");
    const item = element("li", {}, button, remove);
    this.#entries.set(image, { item, button, picture, state });
    $("images").querySelector("ol").append(item);
  }
}

/** Say in a word or two how far an image is. */
function stateOf(image) {
  if (image.busy) return "Service is busy";
  switch (image.state) {
    case "waiting": return "Waiting";
    case "sending": return "Uploading";
    case "running": return image.job.status === "accepted" ? "Waiting" : percent(image.progress, 0);
    case "failed": return image.problem.title;
    default: return image.summary;
  }
}

function thumbnail(canvas, bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  const [x, y] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x, y, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
}
