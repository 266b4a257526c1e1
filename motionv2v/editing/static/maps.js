// Pictures of maps: numbers for pixels, which the session sends as grey pictures.

/** A picture of a map, by its values, in a canvas of its own. */
export function mapped(bitmap, color) {
  const made = document.createElement("canvas");
  [made.width, made.height] = [bitmap.width, bitmap.height];
  const context = made.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, made.width, made.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b, a] = color(pixels.data[i]);
    pixels.data[i] = r;
    pixels.data[i + 1] = g;
    pixels.data[i + 2] = b;
    pixels.data[i + 3] = a;
  }
  context.putImageData(pixels, 0, 0);
  return made;
}

const maps = new WeakMap(); // pictures of maps, by the maps
/** The picture of a map that was made of it by a key, or is made now. */
export function once(bitmap, key, make) {
  if (maps.get(bitmap)?.key !== key) maps.set(bitmap, { key, made: make() });
  return maps.get(bitmap).made;
}
