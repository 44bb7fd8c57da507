// Downloads: a button for each format that the service names, and the command that does the same.

import { $, element } from "./dom.js";
import { ask, hasKey, resultPath, settings } from "./service.js";

// What a person calls a format, and how its file is called. A format that is not here has its name.
const FORMATS = {
  gpkg: ["GeoPackage", ".gpkg"],
  geojson: ["GeoJSON", ".geojson"],
  png: ["Mask (PNG)", ".mask.png"],
  geotiff: ["GeoTIFF", ".mask.tif"],
  overlay: ["Overlay", ".overlay.png"],
  probability: ["Probability", ".probability.png"],
  disagreement: ["Disagreement", ".disagreement.png"],
  coco: ["COCO", ".coco.json"],
  rle: ["RLE", ".rle.json"],
  flatgeobuf: ["FlatGeobuf", ".fgb"],
  geoparquet: ["GeoParquet", ".parquet"],
};
const FIRST = { map: ["gpkg", "geojson"], image: ["png"] };

/** The section "Download". `parameters()` are those of what is shown. */
export class Downloads {
  constructor(parameters, onProblem) {
    Object.assign(this, { parameters, onProblem });
    $("copy").onclick = async () => {
      await navigator.clipboard.writeText($("command").querySelector("pre").textContent);
      $("copy").textContent = "Copied";
      setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
    };
  }

  /** Offer what an image can have; say why it can't have the rest. */
  open(image) {
    const { formats, corners } = image.job.image;
    const names = [...Object.keys(FORMATS).filter((name) => name in formats),
      ...Object.keys(formats).filter((name) => !(name in FORMATS))];
    const first = FIRST[corners ? "map" : "image"].find((name) => formats[name] === null) ?? "png";
    names.sort((a, b) => (b === first) - (a === first));
    const reasons = new Map();
    for (const name of names.filter((each) => formats[each])) {
      reasons.set(formats[name], [...(reasons.get(formats[name]) ?? []), titleOf(name)]);
    }
    const numbered = [...reasons.keys()];
    $("downloads").replaceChildren(...names.map((name) => {
      const reason = formats[name];
      return element("button", {
        type: "button", class: name === first ? "first" : null, "data-format": name,
        title: reason, "aria-disabled": reason ? "true" : null,
        "aria-describedby": reason ? `reason-${numbered.indexOf(reason)}` : null,
        onclick: ({ target }) => { if (!reason) this.#download(name, target); },
      }, name === first ? `Download ${titleOf(name)}` : titleOf(name));
    }));
    $("reasons").replaceChildren(...numbered.map((reason, index) =>
      element("li", { id: `reason-${index}` }, `No ${listed(reasons.get(reason))}: ${reason}`)));
    if (image !== this.image) Object.assign(this, { image, got: first });
    this.#command();
  }

  async #download(format, button) {
    const { image } = this, parameters = this.parameters();
    button.setAttribute("aria-busy", "true");
    try {
      const answer = await ask(resultPath(image.id, format, parameters));
      const url = URL.createObjectURL(await answer.blob());
      element("a", { href: url, download: fileName(image, format) }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      if (image === this.image) {
        this.got = format;
        this.#command();
      }
    } catch (error) {
      this.onProblem(error);
    }
    button.removeAttribute("aria-busy");
  }

  /** Write the commands by which a shell gets the same, in the format that was last downloaded. */
  async #command() {
    const { formats } = await settings;
    const { image, got: format } = this, parameters = this.parameters();
    const key = hasKey() ? ' -H "Authorization: Bearer $ROOFTRACE_KEY"' : "";
    const address = (path) => quoted(new URL(path, document.baseURI).href);
    const to = `-o ${quoted(fileName(image, format))}`;
    const lines = [
      "# this result, as long as the service keeps it",
      `curl${key} ${address(resultPath(image.id, format, parameters))} ${to}`,
    ];
    if (formats.includes(format)) {
      const query = new URLSearchParams({ format, ...parameters });
      lines.push("", "# from the image, in one go",
        `curl${key} -F ${quoted(part(image.name))} ${address(`segment?${query}`)} ${to}`);
    }
    $("command").querySelector("pre").textContent = lines.join("\n");
  }
}

const titleOf = (name) => FORMATS[name]?.[0] ?? name;
const fileName = ({ name }, format) =>
  name.replace(/\.[^.]*$/, "") + (FORMATS[format]?.[1] ?? `.${format}`);
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// As curl reads -F: unquoted, a comma or a semicolon ends the name; a bare - is standard input.
const part = (name) => `file=@"./${name.replace(/["\\]/g, "\\$&")}"`;
const listed = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
