// ---- Renderers: WebGL where there is any.

const WEBGL_POINTS = `
  attribute vec2 place; attribute vec4 color;
  uniform vec2 scale, shift; uniform float size;
  varying vec4 tint;
  void main() {
    tint = color;
    gl_Position = color.a > 0.0 ? vec4(place * scale + shift, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
    gl_PointSize = size;
  }`;
const WEBGL_DOT = `
  precision mediump float;
  uniform float dot_size, opacity;
  varying vec4 tint;
  void main() {
    float edge = 0.5 * dot_size - length(gl_PointCoord - 0.5) * dot_size;
    float alpha = opacity * tint.a * clamp(edge, 0.0, 1.0);
    gl_FragColor = vec4(tint.rgb * alpha, alpha);
  }`;

class WebglRenderer {
  name = "webgl";

  constructor(canvas, gl) {
    this.canvas = canvas;
    this.gl = gl;
    // A browser may take its graphics memory back at any time.
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.start(); redraw(); });
    this.start();
  }

  start() {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, WEBGL_POINTS], [gl.FRAGMENT_SHADER, WEBGL_DOT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.uniform = (name) => gl.getUniformLocation(program, name);
    this.colors = gl.createBuffer();
    this.attribute(program, "place", gl.createBuffer(), 2, gl.UNSIGNED_SHORT);
    gl.bufferData(gl.ARRAY_BUFFER, places, gl.STATIC_DRAW);
    this.attribute(program, "color", this.colors, 4, gl.UNSIGNED_BYTE);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.recolor();
  }

  attribute(program, name, buffer, size, type) {
    const gl = this.gl;
    const at = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, type, true, 0, 0);
  }

  recolor() {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.colors);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, paint, this.gl.DYNAMIC_DRAW);
  }

  draw(dots) {
    const { gl, canvas } = this;
    const sharp = canvas.width / view.width;
    const x = 2 * view.scale / view.width, y = 2 * view.scale / view.height;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(this.uniform("scale"), x, y);
    gl.uniform2f(this.uniform("shift"), -view.x * x, -view.y * y);
    for (const { start, end, size, opacity } of dots) {
      gl.uniform1f(this.uniform("size"), size * sharp);
      gl.uniform1f(this.uniform("dot_size"), size * sharp);
      gl.uniform1f(this.uniform("opacity"), opacity);
      if (end > start) gl.drawArrays(gl.POINTS, start, end - start);
    }
  }

  // Until it is drawn, which asking for a pixel does.
  wait() {
    this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4));
  }
}

// Stamps discs into an image: a fill for each of 200,000 cells would take seconds.
class PlainRenderer {
  name = "2d";

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  recolor() {}

  wait() {}

  draw(dots) {
    const { width, height } = this.canvas;
    const sharp = width / view.width;
    const image = this.context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const ground = rgb(getComputedStyle(document.documentElement).getPropertyValue("--plot").trim());
    const across = view.scale / MOST_CODE;
    const left = view.width / 2 - view.x * view.scale, top = view.height / 2 + view.y * view.scale;
    for (const { start, end, size, opacity } of dots) {
      const radius = Math.max(0.5, size * sharp / 2);
      const disc = discOffsets(radius);
      for (let i = start; i < end; i++) {
        const alpha = paint[4 * i + 3] / 255 * opacity;
        if (!alpha) continue;
        const x = Math.round((places[2 * i] * across + left) * sharp), y = Math.round((top - places[2 * i + 1] * across) * sharp);
        if (x < -radius || y < -radius || x > width + radius || y > height + radius) continue;
        const mix = (c) => Math.round(paint[4 * i + c] * alpha + ground[c] * (1 - alpha));
        const color = (255 << 24) | (mix(2) << 16) | (mix(1) << 8) | mix(0);
        for (let k = 0; k < disc.length; k += 2) {
          const at = x + disc[k], row = y + disc[k + 1];
          if (at >= 0 && at < width && row >= 0 && row < height) pixels[row * width + at] = color;
        }
      }
    }
    this.context.putImageData(image, 0, 0);
  }
}

function discOffsets(radius) {
  const offsets = [], reach = Math.ceil(radius);
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) if (x * x + y * y <= radius * radius) offsets.push(x, y);
  }
  return offsets;
}

function makeRenderer() {
  const canvas = byId("points");
  const gl = canvas.getContext("webgl", { antialias: false, premultipliedAlpha: true });
  return gl ? new WebglRenderer(canvas, gl) : new PlainRenderer(canvas);
}
