// From longitude and latitude to pixels of an image, by way of its four corners.

/** Count a longitude as the turn of the earth does that is nearest to another. */
const beside = (longitude, other) => longitude + 360 * Math.round((other - longitude) / 360);

/**
 * Return where an image lies, of its corners [[lon, lat] × 4], clockwise from the top left. Across
 * the antimeridian, its own `corners` have longitudes that go on beyond 180.
 */
export function placeOf(given, width, height) {
  const corners = given.map(([lon, lat]) => [beside(lon, given[0][0]), lat]), [a, b, c, d] = corners;
  const mix = (u, v, i) =>
    (1 - v) * ((1 - u) * a[i] + u * b[i]) + v * ((1 - u) * d[i] + u * c[i]);

  /** Newton's method: corners are almost a parallelogram, so a few steps reach any precision. */
  function toPixel([longitude, latitude]) {
    const x = beside(longitude, a[0]);
    let u = 0.5, v = 0.5;
    for (let step = 0; step < 6; step++) {
      const [dx, dy] = [x - mix(u, v, 0), latitude - mix(u, v, 1)];
      const along = [0, 1].map((i) => (1 - v) * (b[i] - a[i]) + v * (c[i] - d[i]));
      const down = [0, 1].map((i) => (1 - u) * (d[i] - a[i]) + u * (c[i] - b[i]));
      const area = along[0] * down[1] - along[1] * down[0];
      u += (dx * down[1] - dy * down[0]) / area;
      v += (dy * along[0] - dx * along[1]) / area;
    }
    return [u * width, v * height];
  }
  return { corners, toPixel };
}

/** Return the outlines of a GeoJSON's features as one path of an SVG. */
export function pathOf(features, toPixel = (point) => point) {
  const rings = features.flatMap(({ geometry: { type, coordinates } }) =>
    type === "Polygon" ? coordinates : coordinates.flat());
  const point = (at) => toPixel(at).map((value) => value.toFixed(2)).join(" ");
  return rings.map((ring) => `M${ring.map(point).join("L")}z`).join("");
}
