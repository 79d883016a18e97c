"use strict";
// The map as a picture of a pixel a cell, drawn again when its class or its least probability changes.
const RAMP = [[0, [0, 90, 160]], [0.5, [245, 240, 215]], [1, [213, 70, 0]]];

function colourOf(p) {
  const at = RAMP.findIndex(([from]) => from >= p), high = Math.max(1, at);
  const [from, a] = RAMP[high - 1], [to, b] = RAMP[high];
  return a.map((value, n) => value + (b[n] - value) * (p - from) / (to - from));
}

const COLOURS = Array.from({ length: 256 }, (_, value) => colourOf(Math.max(0, value - 1) / 254));

function bytesOf(text) {
  const packed = atob(text), found = new Uint8Array(packed.length);
  for (let n = 0; n < packed.length; n++) found[n] = packed.charCodeAt(n);
  return found;
}

class Overlay {
  constructor(map, bounds) {
    this.map = map;
    this.bounds = bounds;
    this.values = bytesOf(map.values);
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    this.canvas.width = map.columns;
    this.canvas.height = map.rows;
  }

  draw(code, least) {
    const size = this.map.columns * this.map.rows, context = this.canvas.getContext("2d");
    const picture = context.createImageData(this.map.columns, this.map.rows);
    for (let n = 0; n < size; n++) {
      const value = this.values[code * size + n];
      if (!value || (value - 1) / 254 < least) continue;
      const [red, green, blue] = COLOURS[value];
      picture.data.set([red, green, blue, 255], 4 * n);
    }
    context.putImageData(picture, 0, 0);
  }

  // In px of level 0.
  get box() {
    const { cell, columns, rows } = this.map;
    return [this.bounds[0], this.bounds[1], columns * cell, rows * cell];
  }

  at(x, y) {
    const column = Math.floor((x - this.bounds[0]) / this.map.cell), row = Math.floor((y - this.bounds[1]) / this.map.cell);
    if (column < 0 || row < 0 || column >= this.map.columns || row >= this.map.rows) return null;
    const size = this.map.columns * this.map.rows;
    const found = this.map.classes.map((_, code) => this.values[code * size + row * this.map.columns + column]);
    return found[0] ? found.map((value) => (value - 1) / 254) : null;
  }
}
