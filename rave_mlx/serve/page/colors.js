/* The colours of attention: white, yellow, orange, red on a path through OKLab whose lightness falls evenly. */

const TO_LMS = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]];
const TO_RGB = [
  [4.0767416621, -3.3077115913, 0.2309699292],
  [-1.2684380046, 2.6097574011, -0.3413193965],
  [-0.0041960863, -0.7034186147, 1.7076147010],
];

const times = (matrix, vector) => matrix.map((row) => row.reduce((sum, x, i) => sum + x * vector[i], 0));
const encode = (x) => (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);

/** 256 colours, three bytes each, as `rave-mlx look` draws them. */
export function attentionScale() {
  const table = new Uint8ClampedArray(256 * 3);
  for (let step = 0; step < 256; step++) {
    const t = step / 255, hue = (100 - 73 * t) * Math.PI / 180;
    const chroma = 0.21 * Math.sin(Math.min(t * 1.5, 1) * Math.PI / 2);
    const lms = times(TO_LMS, [1 - 0.46 * t, chroma * Math.cos(hue), chroma * Math.sin(hue)]).map((x) => x ** 3);
    table.set(times(TO_RGB, lms).map((x) => 255 * encode(Math.max(0, Math.min(1, x)))), 3 * step);
  }
  return table;
}

const SCALE = attentionScale();

/** Turn a grey map into colours, in place: 0 is white, 255 the strongest. */
export function paint(pixels) {
  for (let i = 0; i < pixels.length; i += 4) {
    const step = 3 * pixels[i];
    pixels[i] = SCALE[step];
    pixels[i + 1] = SCALE[step + 1];
    pixels[i + 2] = SCALE[step + 2];
    pixels[i + 3] = 255;
  }
}
