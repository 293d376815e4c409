// Packed data: base64 of gzip in <script type="text/plain"> elements, unpacked when first needed.

async function inflate(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const libraries = new Map();

// Runs a packed script once; what it defines is then global.
function library(id) {
  if (!libraries.has(id))
    libraries.set(id, inflate(id).then((bytes) => {
      document.head.append(element("script", { textContent: new TextDecoder().decode(bytes) }));
    }));
  return libraries.get(id);
}

// Columns of integers: zigzag code in three byte planes each (see `pack` in meshes.py).
function* integerColumns(bytes, lengths) {
  let start = 0;
  for (const length of lengths) {
    const column = new Int32Array(length);
    for (let i = 0; i < length; i++) {
      const code = bytes[start + i] | (bytes[start + length + i] << 8) | (bytes[start + 2 * length + i] << 16);
      column[i] = (code >>> 1) ^ -(code & 1);
    }
    start += 3 * length;
    yield column;
  }
}

function accumulate(column) {
  for (let i = 1; i < column.length; i++) column[i] += column[i - 1];
  return column;
}

const unpackedMeshes = new Map();

// {indices, positions, normals, values}: values are -1 where there is none, else in the mesh's unit.
function unpackMesh(surface) {
  if (!unpackedMeshes.has(surface.blob)) unpackedMeshes.set(surface.blob, decodeMesh(surface));
  return unpackedMeshes.get(surface.blob);
}

async function decodeMesh({ blob, header }) {
  const bytes = await inflate(blob);
  const { vertices, faces, lower, upper } = header;
  const lengths = [...Array(3).fill(faces), ...Array(header.values ? 7 : 6).fill(vertices)];
  const columns = [...integerColumns(bytes, lengths)];
  const indices = new Uint32Array(3 * faces);
  const [a, b, c] = columns;
  accumulate(a);
  for (let i = 0; i < faces; i++) {
    indices[3 * i] = a[i];
    indices[3 * i + 1] = a[i] + b[i];
    indices[3 * i + 2] = a[i] + b[i] + c[i];
  }
  const positions = new Float32Array(3 * vertices);
  const normals = new Float32Array(3 * vertices);
  const values = new Float32Array(vertices).fill(-1e9);
  for (let axis = 0; axis < 3; axis++) {
    const place = accumulate(columns[3 + axis]);
    const normal = accumulate(columns[6 + axis]);
    const step = (upper[axis] - lower[axis]) / 16383;
    for (let i = 0; i < vertices; i++) {
      positions[3 * i + axis] = lower[axis] + step * place[i];
      normals[3 * i + axis] = normal[i] / 127;
    }
  }
  if (header.values) {
    const [low, high] = header.values;
    const steps = accumulate(columns[9]);
    for (let i = 0; i < vertices; i++) if (steps[i] >= 0) values[i] = low + ((high - low) * steps[i]) / 1023;
  }
  return { indices, positions, normals, values };
}
