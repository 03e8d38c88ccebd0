// Canvases of the work size: masks as pictures, their tint and their outline.

const COLORS = ["230 70 0", "0 114 178", "0 158 115", "204 121 167", "240 200 0"];
const AROUND = [[-1, 0], [1, 0], [0, -1], [0, 1], [-0.7, -0.7], [0.7, -0.7], [-0.7, 0.7], [0.7, 0.7]];

export function color(number) {
  return `rgb(${COLORS[number % COLORS.length]})`;
}

// read: its pixels will be looked at.
export function blank(width, height, read = false) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d", { willReadFrequently: read });
  return canvas;
}

export function picture(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("the picture cannot be shown"));
    image.src = url;
  });
}

// A black and white PNG -> a canvas that is opaque inside and clear outside.
export async function maskCanvas(url, width, height) {
  const canvas = blank(width, height, true);
  const context = canvas.getContext("2d");
  context.drawImage(await picture(url), 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// The same shape in one colour.
export function filled(shape, style) {
  const canvas = blank(shape.width, shape.height);
  const context = canvas.getContext("2d");
  context.fillStyle = style;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "destination-in";
  context.drawImage(shape, 0, 0);
  return canvas;
}

// A line around a shape, dark within light: it shows on any picture.
export function outline(shape, width) {
  const canvas = blank(shape.width, shape.height);
  const context = canvas.getContext("2d");
  for (const [style, reach] of [["white", 2 * width], ["black", width]]) {
    const flat = filled(shape, style);
    for (const [x, y] of AROUND) context.drawImage(flat, x * reach, y * reach);
  }
  context.globalCompositeOperation = "destination-out";
  context.drawImage(shape, 0, 0);
  return canvas;
}

export function isEmpty(shape) {
  const { data } = shape.getContext("2d").getImageData(0, 0, shape.width, shape.height);
  for (let i = 3; i < data.length; i += 4) if (data[i] > 127) return false;
  return true;
}

// COCO run lengths, down the columns, of a shape stretched to another size.
export function rle(shape, width, height) {
  const { data } = shape.getContext("2d").getImageData(0, 0, shape.width, shape.height);
  const counts = [];
  let inside = false, run = 0;
  for (let x = 0; x < width; x++) {
    const column = Math.floor((x * shape.width) / width);
    for (let y = 0; y < height; y++) {
      const row = Math.floor((y * shape.height) / height);
      const now = data[4 * (row * shape.width + column) + 3] > 127;
      if (now !== inside) {
        counts.push(run);
        run = 0;
        inside = now;
      }
      run++;
    }
  }
  counts.push(run);
  return { size: [height, width], counts };
}
