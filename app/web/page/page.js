// The page: what is on the stage and in the panel, and what changes it.

import { Buildings, pathsOf } from "./buildings.js";
import { Controls } from "./controls.js";
import { $, describe, element, number, percent, whole } from "./dom.js";
import { Downloads } from "./downloads.js";
import { pathOf, placeOf } from "./geography.js";
import { MapView, mapsAreThere } from "./map.js";
import { LARGEST, paintHeat, paintMask, paintPicture, readGrey } from "./painting.js";
import { Queue } from "./queue.js";
import { Tray } from "./tray.js";
import { ask, askJson, keepKey, resultPath } from "./service.js";
import { View } from "./view.js";

const SETTLED = 250;  // milliseconds after the last move of a slider: then the service is asked

let shown = null;  // the image on the stage
let painted = null;  // the bitmap on the stage
let picked = -1;  // index of the chosen building
let models = null;  // what the service says of its bundle
let asking = new AbortController(), settling, frame;

const queue = new Queue(changed);
const tray = new Tray(show, remove);
const controls = new Controls(adjusting, refresh);
const downloads = new Downloads(() => controls.all, complain);
const view = new View($("viewer"), $("layers"), $("lines").firstElementChild, {
  onPick: (x, y) => pick(shown?.buildings?.at(x, y) ?? -1),
  onPoint: (x, y) =>
    $("viewer").classList.toggle("building", x !== undefined && shown?.buildings?.at(x, y) >= 0),
  onMove: drawScale,
});
const map = new MapView($("map"), pick);

// Images come in, are shown and go.

function take(files) { begin(queue.add(files)); }

function begin(images) {
  if (!images.length) return;
  document.body.classList.add("started");
  for (const id of ["images", "stage", "panel"]) $(id).hidden = false;
  if (!shown) show(images[0]);
}

/** Show what has become of an image. */
function changed(image) {
  list(image);
  $("access").hidden = !queue.images.some(({ problem }) => problem?.needsKey);
  if (image === shown) drawStage();
}

/** Write into the list how far an image is, or its count: one at other settings says so. */
function list(image) {
  if (image.state === "done") {
    const { count, of } = image.buildings ?? { count: image.job.building_count, of: "{}" };
    image.summary = (of === JSON.stringify(controls.mask) ? "" : "Was ") + counted(count);
  }
  tray.update(image);
}

/** Put an image on the stage. */
function show(image) {
  shown = image;
  painted = null;
  picked = -1;
  for (const id of ["picture", "mask", "disagreement"]) $(id).width = $(id).height = 0;
  for (const id of ["outlines", "picked-inside", "picked-edge"]) $(id).removeAttribute("d");
  for (const id of ["count", "area", "share"]) $(id).textContent = "";
  $("complaint").hidden = $("switch").hidden = true;
  $("name").textContent = image.name;
  tray.mark(image);
  useMap(false);
  drawStage();
}

function remove(image) {
  const at = queue.images.indexOf(image);
  queue.remove(image);
  tray.remove(image);
  if (image !== shown) return;
  shown = null;
  const next = queue.images[Math.min(at, queue.images.length - 1)];
  if (next) return show(next);
  document.body.classList.remove("started");
  for (const id of ["images", "stage", "panel", "access"]) $(id).hidden = true;
  $("file").focus();
}

/** Show the image that is on the stage as far as it is. */
function drawStage() {
  const { state, picture, job, problem } = shown, isDone = state === "done";
  if (picture && picture !== painted) {
    const { width, height } = job?.image ?? picture;
    paintPicture($("picture"), picture);
    if (!painted || width !== picture.width) view.open(width, height);
    painted = picture;
  }
  $("work").hidden = shown.ended;
  $("doing").textContent = doing(shown);
  $("progress").value = 100 * shown.progress;
  $("result").hidden = !isDone;
  $("compare").hidden = !isDone;
  showProblem(problem);
  if (isDone && !shown.opened) open(shown);
  else if (isDone) refresh();
  if (state !== shown.said) say(problem ? `${problem.title}. ${problem.detail}` : doing(shown));
  shown.said = state;
  drawScale();
}

function doing(image) {
  if (image.busy) return "The service is busy. This image waits for its turn.";
  switch (image.state) {
    case "waiting": return "Waits for the image before it";
    case "sending": return "Uploading";
    case "running":
      return image.job.status === "accepted"
        ? "Waits for its turn" : `Looking for buildings: ${percent(image.progress, 0)}`;
    default: return "";
  }
}

/** Prepare the panel for an image that has just been finished. */
async function open(image) {
  image.opened = true;
  try {
    models ??= await askJson("models");
    const info = image.job.image;
    if (info.corners) image.place = placeOf(info.corners, info.width, info.height);
  } catch (error) {
    image.opened = false;
    if (image === shown) complain(error);
    return;
  }
  if (image === shown) refresh();
}

// Results at the parameters that are chosen.

/** Ask for the buildings at the chosen parameters, unless they are there, and show them. */
async function refresh() {
  const image = shown;
  if (!image?.opened || !models) return;
  clearTimeout(settling);
  asking.abort();
  asking = new AbortController();
  const { signal } = asking, { mask, all } = { mask: controls.mask, all: controls.all };
  controls.open(models, Boolean(image.job.image.gsd));
  downloads.open(image);
  drawFacts(image);
  await mapsAreThere.then((there) => { $("switch").hidden = !(there && image.place); });
  $("updating").hidden = false;
  queue.images.forEach(list);
  try {
    const of = JSON.stringify(mask);
    if (image.buildings?.of !== of) {
      $("result").classList.add("stale");
      const answer = await ask(resultPath(image.id, "coco", mask), { signal });
      const step = Math.ceil(Math.max(image.job.image.width, image.job.image.height) / LARGEST);
      const buildings = new Buildings(await answer.json(), answer.headers, step);
      if (signal.aborted) return;
      image.buildings = Object.assign(buildings, { of });
      list(image);
      say(`${image.name}: ${image.summary}`);
    }
    drawBuildings(image);
    await drawOutlines(image, all, signal);
    await drawDisagreement(image, signal);
    $("complaint").hidden = true;
  } catch (error) {
    if (error.name !== "AbortError" && image === shown) complain(error);
  } finally {
    if (!signal.aborted) {
      $("updating").hidden = true;
      $("result").classList.remove("stale");
    }
  }
}

/** A control moves: show at once what can be known here, and ask the service when it rests. */
function adjusting(name) {
  clearTimeout(settling);
  settling = setTimeout(refresh, SETTLED);
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => preview(name));
}

async function preview(name) {
  const image = shown, { buildings } = image ?? {};
  if (!buildings || buildings.step > 1) return;
  if (name === "threshold") {
    // All that was ever probable: components are dropped by the service, when the slider rests.
    image.levels ??= ask(resultPath(image.id, "probability", { min_confidence: 0 }))
      .then((answer) => answer.blob()).then(readGrey);
    const { values } = await image.levels.catch(() => ({ values: null }));
    if (!values || image !== shown) return;
    const cut = 255 * controls.value("threshold");
    paintMask($("mask"), values.map((level) => Number(level >= cut)), buildings.width, buildings.height);
  } else if (name.startsWith("min_")) {
    const [confidence, area] = [controls.value("min_confidence"), controls.value("min_area")];
    const keep = (one) => one.score >= confidence && (one.area ?? one.pixels) >= area;
    paintMask($("mask"), buildings.mask(keep), buildings.width, buildings.height);
  }
  $("result").classList.add("stale");
}

function drawBuildings(image) {
  const { buildings } = image;
  if (drawBuildings.drawn !== buildings || $("result").classList.contains("stale")) {
    paintMask($("mask"), buildings.mask(), buildings.width, buildings.height);
  }
  drawBuildings.drawn = buildings;
  $("count").textContent = whole(buildings.count);
  $("noun").textContent = buildings.count === 1 ? "building" : "buildings";
  $("area").textContent = buildings.area === null ? "" : `${number(buildings.area)} m²`;
  $("share").textContent = `${percent(buildings.fraction)} of the image`;
  const { notices = [] } = image.job;
  $("notices").replaceChildren(...notices.map((text) => element("li", {}, text)));
  $("notices").hidden = !notices.length;
  pick(Math.min(picked, buildings.all.length - 1));
}

/** Outlines as they are drawn in GeoJSON, where these are not the edges of pixels. */
async function drawOutlines(image, parameters, signal) {
  const wanted = Object.keys(controls.outlines).length > 0, onMap = !$("map").hidden;
  if (!wanted) $("outlines").removeAttribute("d");
  if (!wanted && !onMap) return;
  const of = JSON.stringify(parameters);
  if (image.outlines?.of !== of) {
    const collection = await askJson(resultPath(image.id, "geojson", parameters), { signal });
    image.outlines = { of, collection };
  }
  if (signal.aborted) return;
  const { collection } = image.outlines;
  if (wanted) $("outlines").setAttribute("d", pathOf(collection.features, image.place?.toPixel));
  if (onMap) {
    await map.show(image, $("picture"), collection, picked);
    fade();
  }
}

async function drawDisagreement(image, signal) {
  const wanted = $("show-disagreement").checked;
  $("disagree").hidden = !$("map").hidden || image.job.image.formats.disagreement !== null;
  $("disagreement").hidden = !wanted || $("disagree").hidden;
  if ($("disagreement").hidden || $("disagreement").width) return;
  const answer = await ask(resultPath(image.id, "disagreement", {}), { signal });
  const levels = await readGrey(await answer.blob());
  if (image === shown) paintHeat($("disagreement"), levels);
}

// One building.

function pick(index) {
  picked = index;
  const { all } = shown?.buildings ?? { all: [] }, one = all[index];
  const { fill = "", edge = "" } = one ? (one.paths ??= pathsOf(one)) : {};
  $("picked-inside").setAttribute("d", fill);
  $("picked-edge").setAttribute("d", edge);
  map.pick(index);
  for (const id of ["previous", "next"]) $(id).disabled = !all.length;
  $("which").textContent = one ? `Building ${whole(index + 1)} of ${whole(all.length)}`
    : all.length ? "Click a building, or go through them" : "No building at these settings";
  $("facts-of-it").hidden = !one;
  if (one) describe($("facts-of-it"), factsOf(one));
}

function factsOf({ area, pixels, score, agreement }) {
  return [
    ["Area", area === null ? `${whole(pixels)} px` : `${number(area)} m²`],
    ["Confidence", percent(score)],
    ["Agreement of the models", percent(agreement)],
  ];
}

/** Go to the next building, or with -1 to the previous one. */
function go(by) {
  const all = shown?.buildings?.all ?? [];
  if (!all.length) return;
  pick((Math.max(picked, by > 0 ? -1 : 0) + by + all.length) % all.length);
  view.show(all[picked].bbox);
  map.go(picked);
  say(`${$("which").textContent}: ${factsOf(all[picked]).map(([term, text]) => `${term} ${text}`).join(", ")}`);
}

// Around the image.

function drawFacts({ file, job }) {
  const { width, height, gsd, crs } = job.image;
  const seconds = (Date.parse(job.finished) - Date.parse(job.started)) / 1000;
  describe($("facts"), [
    ["Size", `${whole(width)} × ${whole(height)} px`],
    ["Pixel on the ground", gsd ? `${number(gsd)} m` : "not known"],
    ["Reference system", crs],
    ["File", `${number(file.size / 1e6)} MB`],
    ["Found in", Number.isFinite(seconds) ? `${number(seconds)} s` : ""],
    ["Models", job.model],
  ]);
}

/** Draw a scale bar of a round length. */
function drawScale(zoom = drawScale.zoom) {
  drawScale.zoom = zoom;
  const gsd = shown?.job?.image?.gsd;
  $("scale").hidden = !gsd || !shown.picture || !$("map").hidden || !shown.ended;
  if ($("scale").hidden) return;
  const metres = (110 * gsd) / zoom, power = 10 ** Math.floor(Math.log10(metres));
  const round = [5, 2, 1].find((digit) => digit * power <= metres) * power;
  $("scale").firstElementChild.style.width = `${(round / gsd) * zoom}px`;
  $("scale").lastElementChild.textContent = round < 1000 ? `${+round.toPrecision(2)} m` : `${round / 1000} km`;
}

function useMap(wanted) {
  $("map").hidden = !wanted;
  $("viewer").hidden = $("zoom").hidden = wanted;
  $("as-map").setAttribute("aria-pressed", String(wanted));
  $("as-image").setAttribute("aria-pressed", String(!wanted));
  drawScale();
}

const counted = (count) => (count === 1 ? "1 building" : `${whole(count)} buildings`);

function say(text) { $("status").textContent = text; }

/** Show on the stage why an image has no result. */
function showProblem(problem) {
  $("problem").hidden = !problem;
  if (!problem) return;
  const [title, detail, request] = $("problem").children;
  title.textContent = problem.title ?? "The page failed";
  detail.textContent = problem.detail ?? problem.message;
  request.textContent = problem.request ? `Request ${problem.request}` : "";
}

/** Say in the panel why something about a result failed. */
function complain(problem) {
  $("complaint").hidden = false;
  $("complaint").textContent = `${problem.title ?? "The page failed"}. ${problem.detail ?? problem.message}`;
}

function compare(on) {
  $("stage").classList.toggle("comparing", on);
  map.fade(on ? 0 : $("opacity").value / 100);
}

function fade() {
  const { value } = $("opacity");
  document.documentElement.style.setProperty("--opacity", value / 100);
  $("opacity-value").textContent = `${value} %`;
  map.fade(value / 100);
}

// What a person does.

$("file").onchange = ({ target }) => { take(target.files); target.value = ""; };
$("more").onclick = () => $("file").click();
$("sample").onclick = async () => {
  const answer = await fetch("page/sample.tif");
  take([new File([await answer.blob()], "sample.tif", { type: "image/tiff" })]);
};
$("access").onsubmit = (event) => {
  event.preventDefault();
  keepKey($("key").value);
  $("key").value = "";
  queue.retry(({ problem }) => problem.needsKey);
};
// All that found the service away failed by one problem, and are tried again together.
$("again").onclick = () => queue.retry(({ problem }) => problem === shown.problem);
$("cancel").onclick = () => remove(shown);
$("previous").onclick = () => go(-1);
$("next").onclick = () => go(1);
$("closer").onclick = () => view.zoomBy(1.4);
$("wider").onclick = () => view.zoomBy(1 / 1.4);
$("whole").onclick = () => view.fit();
$("as-image").onclick = () => { useMap(false); refresh(); };
$("as-map").onclick = () => { useMap(true); refresh(); };
$("show-disagreement").onchange = refresh;
$("opacity").oninput = fade;
$("compare").onpointerdown = () => compare(true);
for (const end of ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"]) {
  $("compare").addEventListener(end, () => compare(false));
}
$("compare").onkeydown = ({ key }) => { if (key === " " || key === "Enter") compare(true); };
$("stage").addEventListener("keydown", (event) => {
  const { key, ctrlKey, metaKey, altKey } = event;
  if (ctrlKey || metaKey || altKey) return;
  if (!$("viewer").hidden) view.press(event);
  if (key === "n") go(1);
  if (key === "p") go(-1);
  if (key === "c") compare(true);
  if (key === "Escape") pick(-1);
});
$("stage").addEventListener("keyup", ({ key }) => { if (key === "c") compare(false); });

function drop(event) {
  event.preventDefault();
  document.body.classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") take(event.dataTransfer.files);
}
document.ondragover = document.ondragleave = document.ondrop = drop;
document.onpaste = ({ clipboardData }) => { if (clipboardData.files.length) take(clipboardData.files); };
fade();
begin(queue.restore());
