// Camera frusta as line segments, by three.js. A camera is a 3x4 camera-to-world matrix, row by row, in scene units.

const pose = (rows) => new THREE.Matrix4().set(...rows, 0, 0, 0, 1);
const centre = (matrix) => new THREE.Vector3().setFromMatrixPosition(matrix);

function rotationPower(rotation, exponent) {
  const { x, y, z, w } = rotation;
  const axis = new THREE.Vector3(x, y, z);
  const angle = 2 * Math.atan2(axis.length(), Math.abs(w)) * (w < 0 ? -1 : 1);
  return new THREE.Quaternion().setFromAxisAngle(axis.normalize(), exponent * angle);
}

// The pose of a camera whose error against the reference, a motion about the object, is taken `times` times.
function exaggerated(camera, reference, times) {
  if (!reference || times === 1) return camera;
  const motion = reference.clone().invert().premultiply(camera);
  const rotation = rotationPower(new THREE.Quaternion().setFromRotationMatrix(motion), times);
  const translation = centre(motion).multiplyScalar(times);
  return new THREE.Matrix4().compose(translation, rotation, new THREE.Vector3(1, 1, 1)).multiply(reference);
}

// In the camera's frame (x right, y down, z forwards): corners of the image, edges, and a mark at the image's upper side.
function frustum(depth, aspect) {
  const width = depth * 0.55 * Math.min(1, aspect);
  const at = (x, y) => new THREE.Vector3(x * width, (y * width) / aspect, depth);
  const corners = [at(-1, -1), at(1, -1), at(1, 1), at(-1, 1)];
  const edges = corners.flatMap((corner, i) => [new THREE.Vector3(), corner, corner, corners[(i + 1) % 4]]);
  return { corners, edges, mark: [at(-0.3, -1.25), at(0.3, -1.25)] };
}

// What to draw of a scene's cameras with this surface: {group, labels, extent}.
function drawnCameras(scene, surface, { start, result, reference, labels, images, far, times }) {
  const drawn = { group: new THREE.Group(), labels: [], extent: 0 };
  const own = scene.cameras.find((set) => set.group === surface?.group);
  const sets = [];
  if (reference && scene.reference) sets.push([scene.reference, "--reference", 1.2]);
  if (start && own?.sets.start) sets.push([own.sets.start, "--start", 1.5]);
  const last = own?.sets[surface.iteration];
  if (result && last) sets.push([last, "--result", 2]);
  if (!sets.length) return drawn;
  const distances = sets.flatMap(([set]) => Object.values(set).map((rows) => centre(pose(rows)).length()));
  const mean = distances.reduce((a, b) => a + b, 0) / distances.length;
  const near = Math.min(scene.radius * 1.65, mean);
  const shown = near + far * (mean - near); // mean distance at which the cameras are drawn
  const depth = 0.2 * scene.radius * (1 + 0.6 * far * (mean / near - 1) * 0.2);
  const { corners, edges, mark } = frustum(depth, scene.aspect);
  const lines = new Map();
  const add = (points, colour, width) => {
    const material = renderer().line(style(colour), width);
    if (!lines.has(material)) lines.set(material, []);
    points.forEach((point) => lines.get(material).push(...point));
  };
  const apexes = new Map();
  const quads = { position: [], uv: [] };
  for (const [set, colour, width] of sets) {
    for (const [view, rows] of Object.entries(set)) {
      const matrix = exaggerated(pose(rows), scene.reference?.[view] && pose(scene.reference[view]), times);
      const apex = centre(matrix).multiplyScalar(shown / mean);
      matrix.setPosition(apex);
      const placed = (points) => points.map((point) => point.clone().applyMatrix4(matrix));
      add(placed(edges), colour, width);
      add(placed(mark), colour, width * 1.6);
      if (!apexes.has(view)) apexes.set(view, []);
      apexes.get(view).push(apex);
      if (images && set === sets.at(-1)[0]) addImage(quads, scene, view, placed(corners));
    }
  }
  for (const [view, places] of apexes) {
    for (let i = 1; i < places.length; i++) add(places.slice(i - 1, i + 1), "--muted", 1);
    if (labels) drawn.labels.push({ text: view, at: places.at(-1).clone().multiplyScalar(1.05) });
  }
  for (const [material, positions] of lines)
    drawn.group.add(new THREE.LineSegments2(new THREE.LineSegmentsGeometry().setPositions(positions), material));
  if (quads.uv.length) drawn.group.add(imageMesh(scene, quads));
  return { ...drawn, extent: 1.08 * shown + depth * 0.4 };
}

// Two triangles with the view's tile of the sprite sheet.
function addImage(quads, scene, view, corners) {
  const index = scene.views.indexOf(view);
  if (index < 0) return;
  const columns = Math.ceil(Math.sqrt(scene.views.length));
  const rows = Math.ceil(scene.views.length / columns);
  const [column, row] = [index % columns, Math.floor(index / columns)];
  const uv = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([x, y]) => [(column + x) / columns, (row + y) / rows]);
  for (const i of [0, 1, 2, 0, 2, 3]) {
    quads.position.push(...corners[i]);
    quads.uv.push(...uv[i]);
  }
}

function imageMesh(scene, { position, uv }) {
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(position), 3));
  geometry.setAttribute("uv", new THREE.BufferAttribute(new Float32Array(uv), 2));
  return new THREE.Mesh(geometry, scene.images);
}

// A material that shows the tiles of a sprite sheet.
function imageMaterial(sheet) {
  const map = new THREE.Texture(sheet);
  map.flipY = false;
  map.needsUpdate = true;
  return new THREE.MeshBasicMaterial({ map, transparent: true, alphaTest: 0.3, side: THREE.DoubleSide });
}
