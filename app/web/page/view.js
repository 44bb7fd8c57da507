// The viewer: an image and the layers over it, which can be moved and zoomed.

const LARGEST_ZOOM = 40;  // screen pixels per pixel of the image
const STEP = 1.4;  // of a key or a button
const CRISP = 2;  // from this zoom on, pixels are squares

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

/**
 * Moves and zooms whatever lies in `layers`, and the drawing in `lines`, within `viewer`.
 *
 * `onPick(x, y)` is told of a click and `onPoint(x, y)` of the pointer, both in pixels of the image;
 * `onPoint()` once it has left. `onMove(zoom)` is told when the zoom has changed.
 */
export class View {
  #width = 1; #height = 1; #x = 0; #y = 0; #zoom = 1;
  #fitted = true;
  #pointers = new Map();
  #moved = 0;

  constructor(viewer, layers, lines, { onPick, onPoint, onMove }) {
    Object.assign(this, { viewer, layers, lines, onPick, onPoint, onMove });
    new ResizeObserver(() => (this.#fitted ? this.fit() : this.#place())).observe(viewer);
    viewer.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    viewer.addEventListener("pointerdown", (event) => this.#down(event));
    viewer.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      viewer.addEventListener(end, (event) => this.#up(event));
    }
    viewer.addEventListener("pointerleave", () => onPoint());
    viewer.addEventListener("dblclick", (event) => this.zoomBy(2, this.#at(event)));
  }

  /** Show an image of another size, whole. */
  open(width, height) {
    [this.#width, this.#height] = [width, height];
    this.layers.style.width = `${width}px`;
    this.layers.style.height = `${height}px`;
    this.fit();
  }

  /** Show the whole image. */
  fit() {
    this.#zoom = this.#whole;
    this.#fitted = true;
    this.#place();
  }

  /** Zoom by a factor about a place in the viewer, by default its middle. */
  zoomBy(factor, [x, y] = [this.viewer.clientWidth / 2, this.viewer.clientHeight / 2]) {
    const zoom = clamp(this.#zoom * factor, this.#whole, LARGEST_ZOOM), change = zoom / this.#zoom;
    this.#x = x - (x - this.#x) * change;
    this.#y = y - (y - this.#y) * change;
    this.#zoom = zoom;
    this.#fitted = zoom === this.#whole;
    this.#place();
  }

  /** Bring a box [x, y, width, height] of the image into view, zooming in if it is small. */
  show([x, y, width, height]) {
    const { clientWidth, clientHeight } = this.viewer;
    const largest = Math.min(clientWidth / width, clientHeight / height) / 6;
    this.#zoom = clamp(Math.max(this.#zoom, Math.min(largest, 3)), this.#whole, LARGEST_ZOOM);
    this.#x = clientWidth / 2 - (x + width / 2) * this.#zoom;
    this.#y = clientHeight / 2 - (y + height / 2) * this.#zoom;
    this.#fitted = false;
    this.#place();
  }

  get #whole() {
    const { clientWidth, clientHeight } = this.viewer;
    const fits = Math.min(clientWidth / this.#width, clientHeight / this.#height);
    return Math.min(fits || 1, LARGEST_ZOOM);
  }

  #pan(x, y) {
    this.#x += x;
    this.#y += y;
    this.#place();
  }

  /** Move everything to where it is now; no gap opens beside an image that could fill it. */
  #place() {
    const { clientWidth, clientHeight } = this.viewer, zoom = this.#zoom;
    const within = (at, room, size) =>
      size <= room ? (room - size) / 2 : clamp(at, room - size, 0);
    this.#x = within(this.#x, clientWidth, this.#width * zoom);
    this.#y = within(this.#y, clientHeight, this.#height * zoom);
    this.layers.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${zoom})`;
    this.lines.setAttribute("transform", `translate(${this.#x} ${this.#y}) scale(${zoom})`);
    this.viewer.classList.toggle("crisp", zoom * devicePixelRatio > CRISP);
    this.onMove(zoom);
  }

  #at({ clientX, clientY }) {
    const box = this.viewer.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top];
  }

  #onImage(event) {
    const [x, y] = this.#at(event);
    return [(x - this.#x) / this.#zoom, (y - this.#y) / this.#zoom];
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const speed = event.ctrlKey ? 0.01 : 0.002;  // with Ctrl: a trackpad's pinch, in small steps
    this.zoomBy(Math.exp(-clamp(event.deltaY * lines * speed, -1, 1)), this.#at(event));
  }

  #down(event) {
    if (event.button) return;
    this.viewer.setPointerCapture(event.pointerId);
    if (!this.#pointers.size) this.#moved = 0;
    this.#pointers.set(event.pointerId, this.#at(event));
  }

  #move(event) {
    this.onPoint(...this.#onImage(event));
    const before = this.#pointers.get(event.pointerId), now = this.#at(event);
    if (!before) return;
    const [other] = [...this.#pointers].filter(([id]) => id !== event.pointerId);
    const moved = Math.hypot(now[0] - before[0], now[1] - before[1]);
    this.#moved += moved;
    this.#pointers.set(event.pointerId, now);
    if (!other) return this.#pan(now[0] - before[0], now[1] - before[1]);
    const [x, y] = other[1], apart = ([a, b]) => Math.hypot(a - x, b - y) || 1;
    this.#pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.zoomBy(apart(now) / apart(before), [(now[0] + x) / 2, (now[1] + y) / 2]);
  }

  #up(event) {
    const isClick = this.#pointers.size === 1 && this.#moved < 5 && event.type === "pointerup";
    if (this.#pointers.delete(event.pointerId) && isClick) this.onPick(...this.#onImage(event));
  }

  /** Do as a key says, if it says anything here. */
  press(event) {
    const by = 80;
    const action = {
      "+": () => this.zoomBy(STEP), "=": () => this.zoomBy(STEP), "-": () => this.zoomBy(1 / STEP),
      0: () => this.fit(),
      ArrowLeft: () => this.#pan(by, 0), ArrowRight: () => this.#pan(-by, 0),
      ArrowUp: () => this.#pan(0, by), ArrowDown: () => this.#pan(0, -by),
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}
