// Layers as pixels: the image, the mask and the disagreement of the members.

const INSIDE = 0x80ffe000, EDGE = 0xffffe000;  // alpha, blue, green, red: a cyan that few roofs have

export const LARGEST = 4096;  // pixels of a side: a longer one is shown smaller

/** Draw a bitmap into a canvas, smaller if it is large. */
export function paintPicture(canvas, bitmap) {
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.ceil(bitmap.width * scale);
  canvas.height = Math.ceil(bitmap.height * scale);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

/** Draw a mask, one byte a pixel: its inside lightly, its outermost pixels fully. */
export function paintMask(canvas, mask, width, height) {
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      const beside = (x > 0 && !mask[i - 1]) || (x + 1 < width && !mask[i + 1]);
      const edge = beside || mask[i - width] === 0 || mask[i + width] === 0;
      pixels[i] = edge ? EDGE : INSIDE;
    }
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Return the first channel of a PNG, one byte a pixel, and its size. */
export async function readGrey(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i];
  return { values, width, height };
}

/** Draw how far the members disagree: nothing where they agree, from yellow to red elsewhere. */
export function paintHeat(canvas, { values, width, height }) {
  const image = new ImageData(width, height), { data } = image;
  values.forEach((level, i) => {
    data[4 * i] = 255;
    data[4 * i + 1] = 220 - 0.8 * level;
    data[4 * i + 2] = 40;
    data[4 * i + 3] = Math.min(230, 1.6 * level);
  });
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}
