// Camera frusta as line segments. A camera is a 3x4 camera-to-world matrix, row by row, in scene units.

const mat = {
  rotation: (m) => [[m[0], m[1], m[2]], [m[4], m[5], m[6]], [m[8], m[9], m[10]]],
  multiply: (A, B) => A.map((row) => [0, 1, 2].map((j) => row[0] * B[0][j] + row[1] * B[1][j] + row[2] * B[2][j])),
  transpose: (A) => [0, 1, 2].map((i) => [A[0][i], A[1][i], A[2][i]]),
  apply: (A, v) => A.map((row) => vec.dot(row, v)),
};

// Rodrigues' formula, for the rotation vector of R times k.
function rotationPower(R, k) {
  const axis = [R[2][1] - R[1][2], R[0][2] - R[2][0], R[1][0] - R[0][1]];
  const sine = vec.length(axis) / 2;
  const angle = Math.atan2(sine, (R[0][0] + R[1][1] + R[2][2] - 1) / 2) * k;
  if (sine < 1e-9) return [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  const [x, y, z] = vec.unit(axis);
  const [c, s, t] = [Math.cos(angle), Math.sin(angle), 1 - Math.cos(angle)];
  return [
    [t * x * x + c, t * x * y - s * z, t * x * z + s * y],
    [t * x * y + s * z, t * y * y + c, t * y * z - s * x],
    [t * x * z - s * y, t * y * z + s * x, t * z * z + c],
  ];
}

// {R, centre} of a camera whose error against the reference, a motion about the object, is taken k times.
function exaggerated(camera, reference, k) {
  const R = mat.rotation(camera);
  const centre = [camera[3], camera[7], camera[11]];
  if (!reference || k === 1) return { R, centre };
  const R0 = mat.rotation(reference);
  const centre0 = [reference[3], reference[7], reference[11]];
  const turn = mat.multiply(R, mat.transpose(R0));
  const shift = vec.sub(centre, mat.apply(turn, centre0));
  const power = rotationPower(turn, k);
  return { R: mat.multiply(power, R0), centre: vec.add(mat.apply(power, centre0), vec.scale(shift, k)) };
}

// What to draw of a scene's cameras with this surface: {lines, pictures, labels, extent}.
function drawnCameras(scene, surface, { start, result, reference, labels, pictures, far, times }) {
  const drawn = { lines: [], pictures: null, labels: [], extent: 0 };
  const own = scene.cameras.find((set) => set.group === surface?.group);
  const sets = [];
  if (reference && scene.reference) sets.push([scene.reference, "--reference", 1.2]);
  if (start && own?.sets.start) sets.push([own.sets.start, "--start", 1.5]);
  const last = own?.sets[surface.iteration];
  if (result && last) sets.push([last, "--result", 2]);
  if (!sets.length) return drawn;
  const distances = sets.flatMap(([set]) => Object.values(set).map((m) => Math.hypot(m[3], m[7], m[11])));
  const mean = distances.reduce((a, b) => a + b, 0) / distances.length;
  const near = Math.min(scene.radius * 1.65, mean);
  const shrink = (near + far * (mean - near)) / mean;
  const depth = 0.2 * scene.radius * (1 + 0.6 * far * (mean / near - 1) * 0.2);
  const half = [depth * 0.55 * Math.min(1, scene.aspect), (depth * 0.55 * Math.min(1, scene.aspect)) / scene.aspect];
  const quads = [];
  const apexes = new Map();
  for (const [set, tint, width] of sets) {
    const colour = styleColour(tint);
    for (const [view, camera] of Object.entries(set)) {
      const { R, centre } = exaggerated(camera, scene.reference?.[view], times);
      const apex = vec.scale(centre, shrink);
      const corner = (x, y) => vec.add(apex, mat.apply(R, [x * half[0], y * half[1], depth]));
      const corners = [corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)];
      const line = (a, b, w = width) => drawn.lines.push(...a, ...b, ...colour, 1, w);
      corners.forEach((point, i) => {
        line(apex, point);
        line(point, corners[(i + 1) % 4]);
      });
      line(corner(-0.3, -1.25), corner(0.3, -1.25), width * 1.6); // which side is up
      if (!apexes.has(view)) apexes.set(view, []);
      apexes.get(view).push(apex);
      if (pictures && set === sets.at(-1)[0]) quads.push(...pictureCorners(scene, view, corners));
    }
  }
  const [grey, extent] = [styleColour("--muted"), 1.08 * (near + far * (mean - near)) + depth * 0.4];
  for (const [view, places] of apexes) {
    for (let i = 1; i < places.length; i++) drawn.lines.push(...places[i - 1], ...places[i], ...grey, 0.9, 1);
    if (labels) drawn.labels.push({ text: view, at: vec.scale(places.at(-1), 1.05) });
  }
  if (quads.length) drawn.pictures = new Float32Array(quads);
  return { ...drawn, extent };
}

// Two triangles with the view's tile of the sprite sheet.
function pictureCorners(scene, view, [a, b, c, d]) {
  const index = scene.views.indexOf(view);
  if (index < 0) return [];
  const columns = Math.ceil(Math.sqrt(scene.views.length));
  const rows = Math.ceil(scene.views.length / columns);
  const [left, top] = [(index % columns) / columns, Math.floor(index / columns) / rows];
  const [right, bottom] = [left + 1 / columns, top + 1 / rows];
  const at = { a: [...a, left, top], b: [...b, right, top], c: [...c, right, bottom], d: [...d, left, bottom] };
  return [...at.a, ...at.b, ...at.c, ...at.a, ...at.c, ...at.d];
}
