// Interactive 3D views: the surface with its cameras, and the surfaces of all iterations side by side.

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function styleColour(name) {
  const hex = style(name);
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Calls `appear` once, shortly before the element is scrolled into view or its tab is opened.
function whenSeen(target, appear) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    appear();
  }, { rootMargin: "150px" });
  observer.observe(target);
}

const FIELD_OF_VIEW = (28 * Math.PI) / 180;

// Where the eye is: on a sphere about the object, `up` upwards.
class Orbit {
  constructor(up, towards, radius) {
    this.up = vec.unit(up);
    const flat = vec.sub(towards, vec.scale(this.up, vec.dot(towards, this.up)));
    const some = Math.abs(this.up[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0];
    this.first = vec.unit(vec.length(flat) > 1e-6 ? flat : vec.cross(this.up, some));
    this.second = vec.cross(this.up, this.first);
    this.radius = radius;
    this.changed = new Set();
    this.home = { azimuth: 0.35, elevation: 0.3, zoom: 1, shift: [0, 0] };
    Object.assign(this, structuredClone(this.home));
  }

  set(values) {
    Object.assign(this, values);
    this.elevation = Math.min(1.55, Math.max(-1.55, this.elevation));
    this.zoom = Math.min(40, Math.max(0.15, this.zoom));
    this.changed.forEach((draw) => draw());
  }

  lookFrom(direction) {
    const d = vec.unit(direction);
    const azimuth = Math.atan2(vec.dot(d, this.second), vec.dot(d, this.first));
    this.set({ azimuth, elevation: Math.asin(Math.max(-1, Math.min(1, vec.dot(d, this.up)))), shift: [0, 0] });
  }

  // View and projection for a picture of this aspect that holds a sphere of `extent`.
  matrices(aspect, extent) {
    const { azimuth: a, elevation: e } = this;
    const flat = vec.add(vec.scale(this.first, Math.cos(a)), vec.scale(this.second, Math.sin(a)));
    const back = vec.add(vec.scale(flat, Math.cos(e)), vec.scale(this.up, Math.sin(e)));
    const right = vec.unit(vec.cross(this.up, back));
    const above = vec.cross(back, right);
    const half = Math.tan(FIELD_OF_VIEW / 2);
    const distance = (extent / Math.sin(FIELD_OF_VIEW / 2) / Math.min(1.2, aspect)) / this.zoom;
    const unit = 2 * half * distance; // height of the picture at the target
    const target = vec.add(vec.scale(right, -this.shift[0] * unit), vec.scale(above, -this.shift[1] * unit));
    const eye = vec.add(target, vec.scale(back, distance));
    const view = new Float32Array([
      right[0], above[0], back[0], 0, right[1], above[1], back[1], 0, right[2], above[2], back[2], 0,
      -vec.dot(right, eye), -vec.dot(above, eye), -vec.dot(back, eye), 1,
    ]);
    const near = Math.max(distance - 30 * extent, distance * 0.02);
    const far = distance + 40 * extent;
    const projection = new Float32Array([
      1 / (half * aspect), 0, 0, 0, 0, 1 / half, 0, 0, 0, 0, -(far + near) / (far - near), -1,
      0, 0, (-2 * far * near) / (far - near), 0,
    ]);
    return { view, projection, distance };
  }

  // Drag turns, drag with Shift or the right button moves, wheel zooms once the view has been clicked.
  attach(canvas) {
    const fingers = new Map();
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    canvas.tabIndex = 0;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY, move: event.shiftKey || event.button === 2 });
    });
    canvas.addEventListener("pointermove", (event) => {
      const finger = fingers.get(event.pointerId);
      if (!finger) return;
      const before = fingers.size === 2 ? spread() : 0;
      const [dx, dy] = [event.clientX - finger.x, event.clientY - finger.y];
      Object.assign(finger, { x: event.clientX, y: event.clientY });
      if (fingers.size === 2) this.set({ zoom: (this.zoom * spread()) / Math.max(before, 1) });
      else if (finger.move) {
        const height = canvas.clientHeight;
        this.set({ shift: [this.shift[0] + dx / height, this.shift[1] - dy / height] });
      } else this.set({ azimuth: this.azimuth - dx * 0.008, elevation: this.elevation + dy * 0.008 });
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.set({ zoom: this.zoom * Math.exp(-event.deltaY * 0.0012) });
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.set(structuredClone(this.home)));
    canvas.addEventListener("keydown", (event) => {
      const moves = {
        ArrowLeft: { azimuth: this.azimuth + 0.1 }, ArrowRight: { azimuth: this.azimuth - 0.1 },
        ArrowUp: { elevation: this.elevation - 0.1 }, ArrowDown: { elevation: this.elevation + 0.1 },
        "+": { zoom: this.zoom * 1.15 }, "-": { zoom: this.zoom / 1.15 }, 0: structuredClone(this.home),
      };
      if (!moves[event.key]) return;
      event.preventDefault();
      this.set(moves[event.key]);
    });
  }
}

// A canvas that shows one surface of a scene; `look()` says how: {mode, range, lines, pictures, labels, extent}.
class Pane {
  constructor(scene, orbit, look) {
    Object.assign(this, { scene, orbit, look, surface: null, mesh: null, visible: false, waiting: false });
    this.canvas = element("canvas", { className: "pane" });
    this.canvas.setAttribute("aria-label", "3D view: drag to turn");
    orbit.attach(this.canvas);
    orbit.changed.add(() => this.request());
    new ResizeObserver(() => this.request()).observe(this.canvas);
    new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
      this.request();
    }, { rootMargin: "100px" }).observe(this.canvas);
    document.addEventListener("redraw", () => this.request());
  }

  async show(surface) {
    this.surface = surface;
    this.mesh = null;
    if (surface) {
      const mesh = await unpackMesh(surface);
      if (this.surface !== surface) return;
      this.mesh = mesh;
    }
    this.request();
  }

  request() {
    if (this.waiting || !this.visible) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const { canvas, scene } = this;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height || !renderer().gl) return;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const look = this.look(this.surface);
    const { view, projection, distance } = this.orbit.matrices(width / height, look.extent);
    const finer = ratio < 1.5 ? 2 : 1;
    const lines = Float32Array.from(look.lines, (value, i) => (i % 11 === 10 ? value * ratio * finer : value));
    renderer().draw(canvas, {
      ...look, view, projection, lines, mesh: this.mesh, table: report.distanceColours, clay: styleColour("--clay"), sheet: scene.sheet,
      mode: look.mode === 2 && !this.surface?.header.values ? 0 : look.mode,
    }, finer);
    this.label(look.labels, view, projection, distance, ratio);
    canvas.dataset.drawn = this.mesh ? this.surface.key : "empty";
  }

  label(labels, view, projection, distance, ratio) {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.font = `${11 * ratio}px ${style("--sans")}`;
    context.textAlign = "center";
    context.fillStyle = style("--muted");
    for (const { text, at } of labels) {
      const seen = [0, 1, 2].map((r) => view[r] * at[0] + view[4 + r] * at[1] + view[8 + r] * at[2] + view[12 + r]);
      if (seen[2] > -1e-6) continue;
      context.globalAlpha = -seen[2] < distance ? 1 : 0.45;
      const x = ((projection[0] * seen[0]) / -seen[2] + 1) * 0.5 * width;
      const y = (1 - (projection[5] * seen[1]) / -seen[2]) * 0.5 * height;
      context.fillText(text, x, y - 6 * ratio);
    }
    context.globalAlpha = 1;
  }
}

const MODES = [["Shaded", 0], ["Normals", 1], ["Distance error", 2]];

function segmented(name, options, chosen, choose) {
  const group = element("div", { className: "segmented", role: "group", ariaLabel: name });
  for (const [text, value] of options) {
    const button = element("button", { type: "button", textContent: text, ariaPressed: String(value === chosen) });
    button.addEventListener("click", () => {
      group.querySelectorAll("button").forEach((other) => (other.ariaPressed = String(other === button)));
      choose(value);
    });
    group.append(button);
  }
  return group;
}

function chooser(label, groups, chosen, choose) {
  const select = element("select", { ariaLabel: label });
  for (const [name, options] of groups) {
    const parent = name ? select.appendChild(element("optgroup", { label: name })) : select;
    for (const [text, value] of options) parent.append(element("option", { textContent: text, value }));
  }
  select.value = chosen;
  select.addEventListener("change", () => choose(select.value));
  return element("label", { className: "control" }, element("span", { textContent: label }), select);
}

function toggle(label, colour, on, change) {
  const box = element("input", { type: "checkbox", checked: on });
  box.addEventListener("change", () => change(box.checked));
  const mark = element("i", { className: "swatch" });
  mark.style.background = `var(${colour})`;
  return element("label", { className: "chip" }, box, mark, label);
}

function slider(label, [from, to, step], value, change) {
  const input = element("input", { type: "range", min: from, max: to, step, value, ariaLabel: label });
  input.addEventListener("input", () => change(Number(input.value)));
  return element("label", { className: "control" }, element("span", { textContent: label }), input);
}

function distanceLegend(scene, change) {
  const legend = element("div", { className: "legend", hidden: true });
  const top = element("b");
  const write = (value) => (top.textContent = `≥ ${value.toPrecision(2)} mm`);
  write(scene.valueTop);
  const ramp = element("i", { className: "ramp" });
  ramp.style.background = "var(--distance-ramp)";
  const range = slider("scale", [-1.5, 1.2, 0.02], 0, (power) => {
    const value = scene.valueTop * 10 ** power;
    write(value);
    change(value);
  });
  legend.append("0", ramp, top, range);
  return legend;
}

// The big viewer of one object: choose the surface, the colours, the cameras; two surfaces side by side.
function mountViewer(host, scene) {
  const groups = new Map();
  const name = (surface) => (surface?.group ? `${surface.group} · ${surface.label}` : surface?.label ?? "no surface");
  for (const surface of scene.surfaces) {
    if (!groups.has(surface.group)) groups.set(surface.group, []);
    groups.get(surface.group).push([name(surface), surface.key]);
  }
  const find = (key) => scene.surfaces.find((surface) => surface.key === key) ?? null;
  const state = {
    surface: scene.first, beside: "", mode: 0, top: scene.valueTop, start: true, result: true, reference: true,
    labels: true, pictures: false, far: 0, times: 1,
  };
  const orbit = new Orbit(scene.up, scene.towards, scene.radius);
  const look = (surface) => {
    const cameras = drawnCameras(scene, surface ?? find(state.surface), state);
    const extent = Math.max(scene.radius * 1.02, cameras.extent);
    return { mode: state.mode, range: [0, state.top], extent, ...cameras };
  };
  const panes = [new Pane(scene, orbit, look), new Pane(scene, orbit, look)];
  const captions = panes.map(() => element("figcaption"));
  const stage = element("div", { className: "stage" });
  panes.forEach((pane, i) => stage.append(element("figure", {}, pane.canvas, captions[i])));
  const redraw = () => panes.forEach((pane) => pane.request());
  const set = (values) => {
    Object.assign(state, values);
    redraw();
  };
  const choose = (values) => {
    Object.assign(state, values);
    [find(state.surface), find(state.beside)].forEach((surface, i) => {
      panes[i].show(surface);
      captions[i].textContent = name(surface);
    });
    stage.classList.toggle("double", Boolean(state.beside));
    redraw();
  };
  const legend = distanceLegend(scene, (top) => set({ top }));
  const modes = MODES.filter(([, mode]) => mode < 2 || scene.valueTop > 0);
  const views = scene.cameras.flatMap((set) => Object.values(set.sets)).at(-1) ?? {};
  const lookFrom = Object.keys(scene.reference ?? views);
  const bar = element("div", { className: "toolbar" });
  bar.append(
    chooser("Surface", [...groups], state.surface, (surface) => choose({ surface })),
    chooser("beside", [["", [["nothing", ""]]], ...groups], "", (beside) => choose({ beside })),
    segmented("Colours", modes, 0, (mode) => {
      legend.hidden = mode !== 2;
      set({ mode });
    }),
  );
  const second = element("div", { className: "toolbar minor" });
  second.append(
    element("span", { className: "title", textContent: "Cameras" }),
    toggle("start", "--start", true, (start) => set({ start })),
    toggle("result", "--result", true, (result) => set({ result })),
  );
  if (scene.reference) second.append(toggle("reference", "--reference", true, (reference) => set({ reference })));
  second.append(
    toggle("names", "--muted", true, (labels) => set({ labels })),
    toggle("pictures", "--muted", false, (pictures) => set({ pictures })),
    slider("distance", [0, 1, 0.01], 0, (far) => set({ far })),
  );
  if (scene.reference) {
    const steps = [1, 2, 5, 10, 20].map((times) => [`× ${times}`, String(times)]);
    second.append(chooser("errors", [["", steps]], "1", (times) => set({ times: Number(times) })));
  }
  second.append(
    chooser("look from", [["", [["–", ""], ...lookFrom.map((view) => [view, view])]]], "", (view) => {
      const camera = (scene.reference ?? views)[view];
      if (camera) orbit.lookFrom([camera[3], camera[7], camera[11]]);
    }),
  );
  const reset = element("button", { type: "button", textContent: "Reset view" });
  reset.addEventListener("click", () => orbit.set(structuredClone(orbit.home)));
  const full = element("button", { type: "button", textContent: "Full screen" });
  full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : host.requestFullscreen()));
  second.append(element("span", { className: "end" }, reset, full));
  stage.append(legend);
  const hint = "Drag to turn, Shift-drag to move, click and then scroll to zoom, double-click to reset.";
  host.replaceChildren(bar, stage, second, element("p", { className: "hint", textContent: hint }));
  if (!renderer().gl) stage.replaceChildren(element("p", { className: "problem", textContent: "This browser shows no WebGL: the 3D view cannot be drawn." }));
  choose({});
}

// The surfaces of one experiment at all kept iterations, turned together.
function mountSeries(host, scene) {
  const surfaces = scene.surfaces.filter((surface) => surface.group === host.dataset.group);
  const truth = scene.surfaces.find((surface) => surface.key === "truth");
  const state = { mode: 1, top: scene.valueTop };
  const orbit = new Orbit(scene.up, scene.towards, scene.radius);
  orbit.home.elevation = orbit.elevation = 0.25;
  const look = () => ({ mode: state.mode, range: [0, state.top], extent: scene.radius * 1.07, lines: [], labels: [], pictures: null });
  const row = element("div", { className: "row" });
  const panes = [...surfaces, ...(truth ? [truth] : [])].map((surface) => {
    const pane = new Pane(scene, orbit, look);
    const note = surface.note ? element("small", { textContent: surface.note }) : "";
    row.append(element("figure", {}, pane.canvas, element("figcaption", {}, surface.label, note)));
    pane.show(surface);
    return pane;
  });
  const redraw = () => panes.forEach((pane) => pane.request());
  const legend = distanceLegend(scene, (top) => {
    state.top = top;
    redraw();
  });
  const modes = MODES.filter(([, mode]) => mode < 2 || scene.valueTop > 0);
  const bar = element("div", { className: "toolbar" }, segmented("Colours", modes, 1, (mode) => {
    state.mode = mode;
    legend.hidden = mode !== 2;
    redraw();
  }), legend);
  host.replaceChildren(bar, row);
}
