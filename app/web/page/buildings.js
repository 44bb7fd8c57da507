// Buildings as COCO gives them: run-length encoded pixels, which are those of every download.

/** Read COCO's compressed run lengths. Source: `rleFrString` in cocoapi's common/maskApi.c. */
export function readCounts(text) {
  const counts = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value -= 2 ** shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/** Return the runs of a building down its columns: [column, first row, length, …]. */
function runsOf({ size: [height], counts }) {
  const runs = [];
  let at = 0;
  readCounts(counts).forEach((length, index) => {
    if (index % 2) {
      for (let from = at; from < at + length;) {
        const column = Math.floor(from / height), row = from % height;
        const here = Math.min(at + length - from, height - row);
        runs.push(column, row, here);
        from += here;
      }
    }
    at += length;
  });
  return runs;
}

/** The buildings of an image at some parameters, and a map of which pixel belongs to which. */
export class Buildings {
  /**
   * `step`: a very large image is held smaller, every `step`-th pixel of it. `squareMetres` is the
   * area of a pixel, null where it is not known.
   */
  constructor(coco, headers, step, parameters) {
    const [{ width, height }] = coco.images;
    this.parameters = parameters;
    this.step = step;
    this.width = Math.ceil(width / step);
    this.height = Math.ceil(height / step);
    this.fraction = Number(headers.get("X-Building-Fraction"));
    this.count = Number(headers.get("X-Building-Count"));
    this.area = headers.has("X-Building-Area-M2") ? Number(headers.get("X-Building-Area-M2")) : null;
    const pixels = coco.annotations.reduce((sum, { area }) => sum + area, 0);
    const squareMetres = this.area === null || !pixels ? null : this.area / pixels;
    this.all = coco.annotations.map(({ segmentation, bbox, area, score, agreement }) => ({
      runs: runsOf(segmentation), bbox, score, agreement,
      pixels: area, area: squareMetres === null ? null : area * squareMetres,
    }));
    this.labels = new Uint32Array(this.width * this.height);
    this.all.forEach(({ runs }, index) => this.#label(runs, index + 1));
  }

  #label(runs, label) {
    const { labels, step, width } = this;
    for (let i = 0; i < runs.length; i += 3) {
      if (runs[i] % step) continue;
      const first = Math.ceil(runs[i + 1] / step), last = Math.ceil((runs[i + 1] + runs[i + 2]) / step);
      for (let row = first, at = first * width + runs[i] / step; row < last; row++, at += width) {
        labels[at] = label;
      }
    }
  }

  /** Return the index of the building at a pixel of the image, or -1. */
  at(x, y) {
    const column = Math.floor(x / this.step), row = Math.floor(y / this.step);
    const inside = column >= 0 && row >= 0 && column < this.width && row < this.height;
    return inside ? this.labels[row * this.width + column] - 1 : -1;
  }

  /** Say of each pixel whether it is drawn: those of buildings that `keep` keeps. */
  mask(keep = () => true) {
    const kept = Uint8Array.from([0, ...this.all.map((building) => Number(keep(building)))]);
    return Uint8Array.from(this.labels, (label) => kept[label]);
  }
}

/** Return a building's pixels, and the sides that they share with others, as paths of an SVG. */
export function pathsOf({ runs }) {
  const fill = [], edge = [], columns = new Map();
  for (let i = 0; i < runs.length; i += 3) {
    const [x, y, length] = runs.slice(i, i + 3);
    fill.push(`M${x} ${y}h1v${length}h-1z`);
    edge.push(`M${x} ${y}h1M${x} ${y + length}h1`);
    columns.set(x, [...(columns.get(x) ?? []), y, y + length]);
  }
  for (const x of [...columns.keys()]) if (!columns.has(x + 1)) columns.set(x + 1, []);
  for (const [x, bounds] of columns) {
    // Where one of two neighbouring columns is building and the other is not.
    const cuts = [...bounds, ...(columns.get(x - 1) ?? [])].sort((a, b) => a - b);
    for (let i = 0; i < cuts.length; i += 2) {
      if (cuts[i] < cuts[i + 1]) edge.push(`M${x} ${cuts[i]}V${cuts[i + 1]}`);
    }
  }
  return { fill: fill.join(""), edge: edge.join("") };
}
