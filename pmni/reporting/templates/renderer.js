// One WebGL context for the whole page: it draws off screen, and each viewer copies its picture.

const vec = {
  add: (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]],
  sub: (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]],
  scale: (a, s) => [a[0] * s, a[1] * s, a[2] * s],
  dot: (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2],
  cross: (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]],
  length: (a) => Math.hypot(a[0], a[1], a[2]),
  unit: (a) => vec.scale(a, 1 / Math.max(vec.length(a), 1e-12)),
};

const SURFACE_VERTEX = `#version 300 es
uniform mat4 view, projection;
in vec3 position, normal;
in float value;
out vec3 n, p;
out float v;
void main() {
  vec4 seen = view * vec4(position, 1.0);
  p = seen.xyz;
  n = mat3(view) * normal;
  v = value;
  gl_Position = projection * seen;
}`;

// Frames here: x right, y up, z towards the eye.
const SURFACE_FRAGMENT = `#version 300 es
precision highp float;
uniform int mode;              // 0 plain, 1 normals, 2 value
uniform vec2 range;            // values at both ends of the colour table; none is far below zero
uniform sampler2D table;
uniform vec3 clay;
in vec3 n, p;
in float v;
out vec4 colour;
void main() {
  vec3 toEye = normalize(-p);
  vec3 m = normalize(n);
  if (dot(m, toEye) < 0.0 && !gl_FrontFacing) m = -m;
  float key = max(dot(m, normalize(vec3(-0.45, 0.65, 0.75))), 0.0);
  float fill = max(dot(m, normalize(vec3(0.8, -0.1, 0.5))), 0.0);
  float sky = 0.5 + 0.5 * m.y;
  vec3 h = normalize(toEye + normalize(vec3(-0.45, 0.65, 0.75)));
  float shine = pow(max(dot(m, h), 0.0), 42.0);
  float rim = pow(1.0 - max(dot(m, toEye), 0.0), 3.0);
  vec3 light = vec3(0.27, 0.28, 0.305) + 0.20 * sky * vec3(0.9, 0.95, 1.0)
             + 0.55 * key * vec3(1.0, 0.975, 0.94) + 0.17 * fill * vec3(0.75, 0.85, 1.0);
  if (mode == 1) {
    colour = vec4(m * 0.5 + 0.5, 1.0);
  } else if (mode == 2) {
    float t = clamp((v - range.x) / max(range.y - range.x, 1e-9), 0.0, 1.0);
    vec3 base = v < -1e-3 ? vec3(0.55) : texture(table, vec2(t * 255.0 / 256.0 + 0.5 / 256.0, 0.5)).rgb;
    colour = vec4(base * (0.62 + 0.42 * key + 0.1 * sky), 1.0);
  } else {
    colour = vec4(clay * light + 0.09 * shine + 0.07 * rim, 1.0);
    if (!gl_FrontFacing) colour.rgb *= 0.72;
  }
}`;

// A line is a quad as wide as asked for in pixels: one instance for each segment.
const LINE_VERTEX = `#version 300 es
uniform mat4 view, projection;
uniform vec2 size;
in vec2 corner;
in vec3 from, to;
in vec4 tint;
in float width;
out vec4 shade;
void main() {
  vec4 a = projection * view * vec4(from, 1.0), b = projection * view * vec4(to, 1.0);
  vec2 along = b.xy / b.w * size - a.xy / a.w * size;
  vec2 side = length(along) > 1e-6 ? normalize(vec2(-along.y, along.x)) : vec2(0.0, 1.0);
  vec4 end = mix(a, b, corner.x);
  gl_Position = end + vec4(side * corner.y * width / size * end.w, 0.0, 0.0);
  shade = tint;
}`;
const LINE_FRAGMENT = `#version 300 es
precision mediump float;
in vec4 shade;
out vec4 colour;
void main() { colour = vec4(shade.rgb * shade.a, shade.a); }`;

const PICTURE_VERTEX = `#version 300 es
uniform mat4 view, projection;
in vec3 position;
in vec2 place;
out vec2 uv;
void main() { uv = place; gl_Position = projection * view * vec4(position, 1.0); }`;
const PICTURE_FRAGMENT = `#version 300 es
precision mediump float;
uniform sampler2D sheet;
in vec2 uv;
out vec4 colour;
void main() {
  vec4 seen = texture(sheet, uv);
  colour = vec4(seen.rgb * seen.a, seen.a);
  if (seen.a < 0.3) discard;
}`;

class Renderer {
  static MESHES = 16; // kept on the graphics card; the least recently drawn ones make room

  constructor() {
    this.canvas = document.createElement("canvas");
    this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.prepare();
      document.dispatchEvent(new Event("redraw"));
    });
    const options = { antialias: true, alpha: true, premultipliedAlpha: true, powerPreference: "low-power" };
    this.gl = this.canvas.getContext("webgl2", options);
    if (this.gl) this.prepare();
  }

  prepare() {
    const gl = this.gl;
    this.meshes = new Map();
    this.textures = new Map();
    this.surface = this.program(SURFACE_VERTEX, SURFACE_FRAGMENT);
    this.line = this.program(LINE_VERTEX, LINE_FRAGMENT);
    this.picture = this.program(PICTURE_VERTEX, PICTURE_FRAGMENT);
    this.lineBuffer = gl.createBuffer();
    this.cornerBuffer = gl.createBuffer();
    this.pictureBuffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.cornerBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, -1, 1, -1, 0, 1, 1, 1]), gl.STATIC_DRAW);
  }

  program(vertex, fragment) {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error(`shader: ${gl.getProgramInfoLog(program)}`);
    const names = { attribute: {}, uniform: {} };
    const count = (kind) => gl.getProgramParameter(program, kind);
    for (let i = 0; i < count(gl.ACTIVE_ATTRIBUTES); i++) {
      const { name } = gl.getActiveAttrib(program, i);
      names.attribute[name] = gl.getAttribLocation(program, name);
    }
    for (let i = 0; i < count(gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(program, i);
      names.uniform[name] = gl.getUniformLocation(program, name);
    }
    return { program, ...names };
  }

  upload(mesh) {
    const gl = this.gl;
    let known = this.meshes.get(mesh);
    if (known) this.meshes.delete(mesh);
    else {
      known = { array: gl.createVertexArray(), buffers: [], count: mesh.indices.length };
      gl.bindVertexArray(known.array);
      const attributes = [["position", mesh.positions, 3], ["normal", mesh.normals, 3], ["value", mesh.values, 1]];
      for (const [name, data, size] of attributes) {
        const buffer = gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
        gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
        gl.enableVertexAttribArray(this.surface.attribute[name]);
        gl.vertexAttribPointer(this.surface.attribute[name], size, gl.FLOAT, false, 0, 0);
        known.buffers.push(buffer);
      }
      const indices = gl.createBuffer();
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, indices);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.indices, gl.STATIC_DRAW);
      known.buffers.push(indices);
      gl.bindVertexArray(null);
    }
    this.meshes.set(mesh, known);
    if (this.meshes.size > Renderer.MESHES) {
      const [oldest, parts] = this.meshes.entries().next().value;
      parts.buffers.forEach((buffer) => gl.deleteBuffer(buffer));
      gl.deleteVertexArray(parts.array);
      this.meshes.delete(oldest);
    }
    return known;
  }

  texture(key, upload, filter) {
    const gl = this.gl;
    if (!this.textures.has(key)) {
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      upload(gl);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
      this.textures.set(key, texture);
    }
    gl.bindTexture(gl.TEXTURE_2D, this.textures.get(key));
  }

  // Draw onto the 2D canvas `target`, `finer` times as fine as its pixels. picture: {view, projection, mesh, mode, range, table, clay,
  // lines: Float32Array of (from 3, to 3, tint 4, width 1), sheet: image, pictures: (position 3, uv 2)}
  draw(target, picture, finer) {
    const gl = this.gl;
    const [width, height] = [target.width * finer, target.height * finer];
    if (this.canvas.width < width) this.canvas.width = width;
    if (this.canvas.height < height) this.canvas.height = height;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    if (picture.mesh) this.drawSurface(picture);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    if (picture.pictures && picture.sheet) this.drawPictures(picture);
    if (picture.lines.length) this.drawLines(picture, width, height);
    const context = target.getContext("2d");
    context.clearRect(0, 0, target.width, target.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.canvas, 0, this.canvas.height - height, width, height, 0, 0, target.width, target.height);
  }

  use(program, { view, projection }) {
    this.gl.useProgram(program.program);
    this.gl.uniformMatrix4fv(program.uniform.view, false, view);
    this.gl.uniformMatrix4fv(program.uniform.projection, false, projection);
  }

  drawSurface(picture) {
    const gl = this.gl;
    const parts = this.upload(picture.mesh);
    const { uniform } = this.surface;
    this.use(this.surface, picture);
    gl.uniform1i(uniform.mode, picture.mode);
    gl.uniform2fv(uniform.range, picture.range);
    gl.uniform3fv(uniform.clay, picture.clay);
    this.texture("table", () => {
      const data = new Uint8Array(picture.table);
      gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, 256, 1, 0, gl.RGB, gl.UNSIGNED_BYTE, data);
    }, gl.LINEAR);
    gl.bindVertexArray(parts.array);
    gl.drawElements(gl.TRIANGLES, parts.count, gl.UNSIGNED_INT, 0);
    gl.bindVertexArray(null);
  }

  drawPictures(picture) {
    const gl = this.gl;
    this.use(this.picture, picture);
    this.texture(picture.sheet, () => {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture.sheet);
      gl.generateMipmap(gl.TEXTURE_2D);
    }, gl.LINEAR_MIPMAP_LINEAR);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.pictureBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, picture.pictures, gl.DYNAMIC_DRAW);
    this.attributes(this.picture, [["position", 3], ["place", 2]], 0);
    gl.drawArrays(gl.TRIANGLES, 0, picture.pictures.length / 5);
    this.release(this.picture);
  }

  drawLines(picture, width, height) {
    const gl = this.gl;
    this.use(this.line, picture);
    gl.uniform2f(this.line.uniform.size, width, height);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lineBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, picture.lines, gl.DYNAMIC_DRAW);
    this.attributes(this.line, [["from", 3], ["to", 3], ["tint", 4], ["width", 1]], 1);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.cornerBuffer);
    this.attributes(this.line, [["corner", 2]], 0);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, picture.lines.length / 11);
    this.release(this.line);
  }

  // Interleaved floats of the bound buffer.
  attributes(program, layout, divisor) {
    const gl = this.gl;
    const stride = 4 * layout.reduce((sum, [, size]) => sum + size, 0);
    let start = 0;
    for (const [name, size] of layout) {
      const location = program.attribute[name];
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, size, gl.FLOAT, false, stride, start);
      gl.vertexAttribDivisor(location, divisor);
      start += 4 * size;
    }
  }

  release(program) {
    for (const location of Object.values(program.attribute)) {
      this.gl.vertexAttribDivisor(location, 0);
      this.gl.disableVertexAttribArray(location);
    }
  }
}

let sharedRenderer = null;
const renderer = () => (sharedRenderer ??= new Renderer());
