// A map, where MapLibre GL JS is installed beside the service: the image in its place on the earth.

import { settings } from "./service.js";

/** Whether there is a map, and a browser that can draw it. */
export const mapsAreThere = settings.then(({ map }) =>
  map && document.createElement("canvas").getContext("webgl2") !== null);

let loading;

/** Load MapLibre when it is first needed. */
function load() {
  loading ??= new Promise((resolve, reject) => {
    const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "map/maplibre-gl.css" });
    const script = Object.assign(document.createElement("script"), { src: "map/maplibre-gl.js" });
    script.onload = () => resolve(globalThis.maplibregl);
    script.onerror = () => reject(new Error("The map could not be loaded."));
    document.head.append(style, script);
  });
  return loading;
}

/** The map in `container`; `onPick(index)` is told of a click on a building, or with -1 beside one. */
export class MapView {
  #map = null; #image = null; #collection = null; #picked = -1;

  constructor(container, onPick) { Object.assign(this, { container, onPick }); }

  /** Show an image, as it is drawn on a canvas, and the buildings of a GeoJSON over it. */
  async show(image, canvas, collection, picked) {
    if (this.#image !== image) await this.#open(image, canvas);
    if (this.#image !== image) return;  // another one came meanwhile
    if (this.#collection !== collection) this.#map.getSource("buildings").setData(collection);
    this.#collection = collection;
    this.#map.resize();
    this.pick(picked);
  }

  async #open(image, canvas) {
    this.#image = image;
    this.#map?.remove();
    this.#map = this.#collection = null;
    const [{ Map, NavigationControl, ScaleControl }, { basemap }] = await Promise.all([load(), settings]);
    if (this.#image !== image || this.#map) return;
    const { corners } = image.place;
    const map = this.#map = new Map({
      container: this.container, style: styleOf(basemap, corners, canvas), bounds: boundsOf(corners),
      fitBoundsOptions: { padding: 40 }, attributionControl: basemap ? { compact: true } : false,
    });
    map.addControl(new NavigationControl({ visualizePitch: true }), "bottom-right");
    map.addControl(new ScaleControl(), "bottom-right");
    map.on("click", ({ point }) => {
      const [feature] = map.queryRenderedFeatures(point, { layers: ["inside"] });
      this.onPick(feature ? feature.id : -1);
    });
    map.on("mouseenter", "inside", () => { map.getCanvas().style.cursor = "pointer"; });
    map.on("mouseleave", "inside", () => { map.getCanvas().style.cursor = ""; });
    await map.once("load");
  }

  /** Mark a building. */
  pick(index) {
    if (!this.#collection) return;
    this.#map.setFeatureState({ source: "buildings", id: this.#picked }, { picked: false });
    if (index >= 0) this.#map.setFeatureState({ source: "buildings", id: index }, { picked: true });
    this.#picked = index;
  }

  /** Bring a building into view. */
  go(index) {
    if (!this.#collection) return;
    const { type, coordinates } = this.#collection.features[index].geometry;
    const bounds = boundsOf((type === "Polygon" ? coordinates : coordinates.flat())[0]);
    this.#map.fitBounds(bounds, { maxZoom: Math.max(this.#map.getZoom(), 18), padding: 80 });
  }

  /** Set how much of the buildings is seen: 0 to 1. */
  fade(opacity) {
    if (!this.#collection) return;
    this.#map.setPaintProperty("inside", "fill-opacity", 0.5 * opacity);
    this.#map.setPaintProperty("edge", "line-opacity", opacity);
  }
}

function boundsOf(points) {
  const [x, y] = [0, 1].map((axis) => points.map((point) => point[axis]));
  return [[Math.min(...x), Math.min(...y)], [Math.max(...x), Math.max(...y)]];
}

function styleOf(basemap, corners, canvas) {
  const isPicked = ["boolean", ["feature-state", "picked"], false];
  const colour = ["case", isPicked, "#ffffff", "#00e0ff"];
  const paper = getComputedStyle(document.documentElement).getPropertyValue("--stage").trim();
  return {
    version: 8,
    sources: {
      ...(basemap && { basemap: {
        type: "raster", tiles: [new URL(basemap.url, document.baseURI).href.replace(/%7B/g, "{").replace(/%7D/g, "}")],
        tileSize: 256, attribution: basemap.attribution } }),
      picture: { type: "canvas", canvas, coordinates: corners, animate: false },
      buildings: { type: "geojson", data: { type: "FeatureCollection", features: [] }, generateId: true },
    },
    layers: [
      { id: "paper", type: "background", paint: { "background-color": paper } },
      ...(basemap ? [{ id: "basemap", type: "raster", source: "basemap" }] : []),
      { id: "picture", type: "raster", source: "picture", paint: { "raster-fade-duration": 0 } },
      { id: "inside", type: "fill", source: "buildings", paint: { "fill-color": colour, "fill-opacity": 0.4 } },
      { id: "edge", type: "line", source: "buildings",
        paint: { "line-color": colour, "line-width": ["case", isPicked, 3, 1.5] } },
    ],
  };
}
