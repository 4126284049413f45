// A picture as the net wants it: the middle of it, resized, RGB, 0 to 255.
//
// The nets normalise inside, so nothing is subtracted or divided here.

/** The largest middle part of a picture with the proportions of the net's input. */
export function middle(width, height, target) {
  const scale = Math.min(width / target.width, height / target.height);
  const cut = {width: target.width * scale, height: target.height * scale};
  return {...cut, left: (width - cut.width) / 2, top: (height - cut.height) / 2};
}

/**
 * Which pixels along one axis make up each new one, and how much: a triangle as wide as a
 * new pixel, and at least as an old one, as in Pillow's BILINEAR.
 */
function shares(start, length, size, limit) {
  const step = length / size;
  const reach = Math.max(step, 1);
  return Array.from({length: size}, (_, index) => {
    const centre = start + (index + 0.5) * step;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const last = Math.min(limit, Math.floor(centre + reach + 0.5));
    const weights = [];
    for (let at = first; at < last; at++) {
      weights.push(Math.max(0, 1 - Math.abs(at + 0.5 - centre) / reach));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return {first, weights: weights.map((weight) => weight / sum)};
  });
}

/**
 * @param pixels {data, width, height}: RGBA bytes, as canvas's getImageData gives them.
 * @param target {width, height, dtype}: what the net takes; float32 or uint8.
 * @returns Float32Array or Uint8Array, height x width x RGB.
 */
export function prepareImage(pixels, target) {
  const {data, width, height} = pixels;
  if (!(width > 0 && height > 0 && data?.length === 4 * width * height)) {
    throw new Error('The picture must have 4 bytes (RGBA) per pixel. ' +
      `Received: ${data?.length} bytes for ${width} x ${height} pixels.`);
  }
  const types = {float32: Float32Array, uint8: Uint8ClampedArray};
  if (!Object.hasOwn(types, target.dtype)) {
    throw new Error(
      `The net's image must be float32 or uint8. Received: ${target.dtype}.`);
  }
  const cut = middle(width, height, target);
  const columns = shares(cut.left, cut.width, target.width, width);
  const rows = shares(cut.top, cut.height, target.height, height);

  const narrow = new Float32Array(height * target.width * 3); // columns done, rows not
  for (let y = 0; y < height; y++) {
    columns.forEach(({first, weights}, x) => {
      const to = 3 * (y * target.width + x);
      weights.forEach((weight, index) => {
        const from = 4 * (y * width + first + index);
        for (let c = 0; c < 3; c++) narrow[to + c] += weight * data[from + c];
      });
    });
  }
  const line = 3 * target.width;
  const image = new types[target.dtype](target.height * line);
  const sums = new Float32Array(line);
  rows.forEach(({first, weights}, y) => {
    sums.fill(0);
    weights.forEach((weight, index) => {
      const from = (first + index) * line;
      for (let x = 0; x < line; x++) sums[x] += weight * narrow[from + x];
    });
    image.set(sums, y * line);
  });
  return target.dtype === 'uint8' ? new Uint8Array(image.buffer) : image;
}
