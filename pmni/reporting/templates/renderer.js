// One WebGL context for the whole page, by three.js: it draws off screen, and each viewer copies its image.

// A material of three.js reflects 1 / π of the light that falls on it.
const FULL_LIGHT = Math.PI;

class Renderer {
  static MESHES = 16; // kept on the graphics card; the least recently drawn ones make room

  constructor() {
    THREE.ColorManagement.enabled = false; // colours are those of the style sheet, the colour table and the normals
    this.webgl = new THREE.WebGLRenderer({ antialias: true, alpha: true, powerPreference: "low-power" });
    this.webgl.outputColorSpace = THREE.LinearSRGBColorSpace;
    this.webgl.domElement.addEventListener("webglcontextrestored", () => document.dispatchEvent(new Event("redraw")));
    this.geometries = new Map();
    this.lines = new Map();
    this.table = colourTable(report.distanceColours);
    const side = THREE.DoubleSide;
    this.surfaces = {
      shaded: new THREE.MeshPhongMaterial({ side, shininess: 42, specular: 0x080808 }),
      normals: new THREE.MeshNormalMaterial({ side }),
      // partly lit, so that the colours stay those of the legend
      distance: new THREE.MeshLambertMaterial({ side, color: 0x8c8c8c, map: this.table, emissive: 0x737373, emissiveMap: this.table }),
    };
  }

  // A material of surfaces; `top` is the end of the scale of distances.
  surface(mode, top) {
    this.surfaces.shaded.color.set(style("--clay"));
    this.table.repeat.x = 255 / 257 / Math.max(top, 1e-9);
    return this.surfaces[mode];
  }

  // A material of lines, `width` CSS pixels wide.
  line(colour, width) {
    const key = `${colour} ${width}`;
    if (!this.lines.has(key)) this.lines.set(key, { width, material: new THREE.LineMaterial({ color: colour }) });
    return this.lines.get(key).material;
  }

  geometry(mesh) {
    const geometry = this.geometries.get(mesh) ?? surfaceGeometry(mesh);
    this.geometries.delete(mesh);
    this.geometries.set(mesh, geometry);
    if (this.geometries.size > Renderer.MESHES) {
      const [oldest, unused] = this.geometries.entries().next().value;
      unused.dispose();
      this.geometries.delete(oldest);
    }
    return geometry;
  }

  // Draws onto a 2D canvas of `ratio` pixels for each CSS pixel, first at a finer resolution where the pixels are coarse.
  draw(target, world, camera, ratio) {
    const finer = ratio < 1.5 ? 2 : 1;
    const [width, height] = [target.width * finer, target.height * finer];
    const own = this.webgl.domElement;
    if (own.width < width || own.height < height) this.webgl.setSize(Math.max(own.width, width), Math.max(own.height, height), false);
    this.lines.forEach((line) => (line.material.linewidth = line.width * ratio * finer));
    this.webgl.setViewport(0, 0, width, height);
    this.webgl.render(world, camera);
    const context = target.getContext("2d");
    context.clearRect(0, 0, target.width, target.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(own, 0, own.height - height, width, height, 0, 0, target.width, target.height);
  }
}

// Texture of grey, for points without a distance, then the 256 colours of the scale; u = repeat.x * distance + offset.x.
function colourTable(colours) {
  const texels = new Uint8Array(4 * 257).fill(255);
  texels.set([140, 140, 140]);
  for (let i = 0; i < 256; i++) texels.set(colours.slice(3 * i, 3 * i + 3), 4 * (i + 1));
  const texture = new THREE.DataTexture(texels, 257, 1);
  texture.offset.x = 1.5 / 257;
  texture.needsUpdate = true;
  return texture;
}

function surfaceGeometry({ positions, normals, indices, values }) {
  const geometry = new THREE.BufferGeometry();
  const uv = new Float32Array(2 * values.length);
  values.forEach((value, i) => (uv[2 * i] = value));
  geometry.setAttribute("position", new THREE.BufferAttribute(positions, 3));
  geometry.setAttribute("normal", new THREE.BufferAttribute(normals, 3));
  geometry.setAttribute("uv", new THREE.BufferAttribute(uv, 2));
  geometry.setIndex(new THREE.BufferAttribute(indices, 1));
  return geometry;
}

// Lights in the camera's frame (x right, y up, z towards the eye): turn the group with the camera.
function lights() {
  const sky = new THREE.HemisphereLight(0xe6f2ff, 0x000000, 0.2 * FULL_LIGHT);
  const key = new THREE.DirectionalLight(0xfff9f0, 0.55 * FULL_LIGHT);
  const fill = new THREE.DirectionalLight(0xbfd9ff, 0.17 * FULL_LIGHT);
  sky.position.set(0, 1, 0);
  key.position.set(-0.45, 0.65, 0.75);
  fill.position.set(0.8, -0.1, 0.5);
  return new THREE.Group().add(new THREE.AmbientLight(0x45474e, FULL_LIGHT), sky, key, fill);
}

let sharedRenderer;

// The page's renderer; null if the browser has no WebGL.
function renderer() {
  if (sharedRenderer === undefined) {
    try {
      sharedRenderer = new Renderer();
    } catch {
      sharedRenderer = null;
    }
  }
  return sharedRenderer;
}
