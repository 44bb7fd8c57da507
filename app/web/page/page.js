const $ = (id) => document.getElementById(id);
const PREVIEW_PIXELS = 16e6;  // a larger image is segmented as it is, and only shown smaller
const INSIDE = 0x80ffe000, EDGE = 0xffffe000;  // alpha, blue, green, red: a cyan that few roofs have
let file, map, own, chosen, running, frame;

/** Ask the service, with the key if there is one; throw its problem if there is one. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    throw options.signal?.aborted ? error : { title: "No answer", detail: "The service can’t be reached." };
  });
  if (response.ok) return response;
  if (response.status === 401 || response.status === 403) $("access").hidden = false;
  throw await response.json().catch(() => ({ title: `Error ${response.status}`, detail: response.statusText }));
}

/** Segment the current file. */
function segment(format, more, signal) {
  const body = new FormData();
  body.append("file", file);
  return ask(`segment?${new URLSearchParams({ format, ...more })}`, { method: "POST", body, signal });
}

async function look(picked) {
  running?.abort();
  const mine = running = new AbortController();
  [file, map, chosen] = [picked, null, null];
  $("main").className = "started busy";
  $("problem").hidden = $("notices").hidden = $("access").hidden = true;
  $("work").hidden = $("progress").hidden = false;
  $("invite").textContent = "Drop another image, or choose one";
  $("status").textContent = `Looking for buildings in ${file.name} …`;
  reveal(false);
  for (const id of ["picture", "mask"]) $(id).width = $(id).height = 0;
  try {
    const models = ask("models").then((response) => response.json());
    models.catch(() => {});  // it is awaited below, if it comes to that
    // Pixels as the file stores them, as the service reads them. Browsers can't show TIFF: null.
    const decoding = createImageBitmap(file, { imageOrientation: "none" }).catch(() => null);
    decoding.then((early) => { if (early && mine === running) paint("picture", early); });
    const response = await segment("probability", {}, mine.signal);
    const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
    let picture = await decoding;
    if (picture?.width !== bitmap.width || picture?.height !== bitmap.height) {
      // An overlay from which every building is dropped is the upload itself, as PNG.
      const plain = await segment("overlay", { min_area: 1e12, overlap: 0 }, mine.signal);
      picture = await createImageBitmap(await plain.blob());
    }
    own = (await models).threshold.value;
    if (mine !== running) return;
    const shown = paint("picture", picture), { data, width, height } = paint("mask", bitmap);
    map = { width, height, probability: channel(data, 0), alpha: channel(shown.data, 3) };
    describe(response, bitmap);
    $("threshold").value = own;
    draw();
    reveal(true);
  } catch (error) {
    if (mine !== running) return;  // another image was chosen meanwhile
    complain(error);
    $("work").hidden = true;
  }
  $("main").className = "started";
  $("progress").hidden = true;
}

function paint(id, bitmap) { return pixelsOf(bitmap, $(id), { willReadFrequently: id === "mask" }); }

/** Draw a picture into a canvas, smaller if it is large, and return its pixels. */
function pixelsOf(bitmap, canvas = element("canvas"), options = {}) {
  const scale = Math.min(1, Math.sqrt(PREVIEW_PIXELS / bitmap.width / bitmap.height));
  canvas.width = Math.ceil(bitmap.width * scale);
  canvas.height = Math.ceil(bitmap.height * scale);
  const context = canvas.getContext("2d", options);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function channel(data, first) {
  const values = new Uint8Array(data.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i + first];
  return values;
}

/** Options of a threshold that a person has chosen: all members decide, and every component counts. */
function atChosen() { return chosen === null ? {} : { threshold: chosen, min_confidence: 0, cascade: "off" }; }

/** Draw the mask at the threshold, from 8-bit probabilities: the very pixels that a download has. */
function draw() {
  const threshold = chosen ?? own, cut = Math.ceil(255 * threshold), { width, height, alpha } = map;
  const p = chosen === null ? map.probability : map.undecided ?? map.probability;
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  let building = 0, valid = 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (alpha[i]) valid++;
      if (p[i] < cut) continue;
      building++;
      const beside = (x > 0 && p[i - 1] < cut) || (x + 1 < width && p[i + 1] < cut);
      const edge = beside || p[i - width] < cut || p[i + width] < cut;  // outside: undefined, so false
      pixels[i] = edge ? EDGE : INSIDE;
    }
  }
  $("mask").getContext("2d").putImageData(image, 0, 0);
  const share = chosen === null ? map.share : building / Math.max(1, valid);
  $("share").textContent = `${(100 * share).toFixed(1)} %`;
  $("threshold-value").textContent = +threshold.toFixed(4);
  $("reset").hidden = chosen === null;
  $("reset").textContent = `Back to the model’s ${+own.toFixed(4)}`;
}

function element(name, ...inside) {
  const made = document.createElement(name);
  made.append(...inside);
  return made;
}

/** Show what the headers say. */
function describe({ headers }, { width, height }) {
  map.share = Number(headers.get("X-Building-Fraction"));
  $("status").textContent = file.name;
  $("notices").textContent = headers.get("X-Notice");
  $("notices").hidden = !headers.has("X-Notice");
  for (const id of ["bar", "facts"]) $(id).replaceChildren();
  const fact = (term, text, mark = "") => $("facts").append(element("dt", mark, term), element("dd", text));
  for (const [, stage, ms] of headers.get("Server-Timing").matchAll(/(\w+);dur=([\d.]+)/g)) {
    const part = element("i"), mark = element("i");
    part.className = mark.className = stage;
    part.style.flexGrow = ms;
    $("bar").append(part);
    fact(stage, ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`, mark);
  }
  fact("size", `${width} × ${height} px`);
  fact("model", headers.get("X-Model-Version"));
  fact("runs on", headers.get("X-Execution-Provider").replaceAll("ExecutionProvider", ""));
}

function complain({ title, detail, message, instance }) {
  const [first, second, third] = $("problem").children;
  first.textContent = title ?? "The page failed";
  second.textContent = detail ?? message;
  third.textContent = instance ? `Request ${instance.split(":").pop()}` : "";
  $("problem").hidden = false;
}

function reveal(there) { for (const part of document.querySelectorAll("[data-result]")) part.hidden = !there; }

async function download(button) {
  button.disabled = true;
  $("problem").hidden = true;
  const link = element("a");
  link.download = `${file.name.replace(/\.[^.]*$/, "")}.${button.dataset.ending}`;
  try {
    const response = await segment(button.dataset.format, atChosen());  // the mask that is shown
    link.href = URL.createObjectURL(await response.blob());
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    complain(error);
  }
  button.disabled = false;
}

function blend() {
  $("mask").style.opacity = $("opacity").value / 100;
  $("opacity-value").textContent = `${$("opacity").value} %`;
}

/** Show another threshold, half-way between two 8-bit probabilities, so that these decide exactly. */
function preview(threshold) {
  chosen = threshold === null ? null : (Math.ceil(255 * threshold) - 0.5) / 255;
  if (chosen !== null && map && !map.asked) askForUndecided(map);
  redraw();
}

/** Get the probabilities before any component was dropped, once for an image. */
async function askForUndecided(of) {
  of.asked = true;
  try {
    const response = await segment("probability", atChosen(), running.signal);
    const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
    if (of === map) of.undecided = channel(pixelsOf(bitmap).data, 0);
    redraw();
  } catch (error) {
    of.asked = false;
    if (of === map) complain(error);
  }
}

function redraw() {  // at most once a frame
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => { if (map) draw(); });
}

function drop(event) {
  event.preventDefault();
  document.body.className = event.type === "dragover" ? "over" : "";
  if (event.type === "drop" && event.dataTransfer.files[0]) look(event.dataTransfer.files[0]);
}

$("file").onchange = (event) => { if (event.target.files[0]) look(event.target.files[0]); event.target.value = ""; };
$("access").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("key").value = "";
  look(file);
};
$("opacity").oninput = blend;
$("threshold").oninput = (event) => preview(Number(event.target.value));
$("reset").onclick = () => { $("threshold").value = own; $("threshold").focus(); preview(null); };
$("downloads").onclick = ({ target }) => { if (target.dataset.format) download(target); };
document.ondragover = document.ondragleave = document.ondrop = drop;
document.onpaste = (event) => { if (event.clipboardData.files[0]) look(event.clipboardData.files[0]); };
blend();
