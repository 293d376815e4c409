// Interactive 3D views: the surface with its cameras, and the surfaces of all iterations side by side.

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

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

const FIELD_OF_VIEW = 28; // degrees

// Where the eye is, turned by OrbitControls; panes that share an orbit turn together. Lengths are in units of the distance from
// which the whole scene fits into the image.
class Orbit {
  constructor({ up, towards }, elevation) {
    this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW);
    this.target = new THREE.Vector3();
    this.changed = new Set();
    const upwards = this.camera.up.set(...up).normalize();
    const level = (direction) => new THREE.Vector3(...direction).projectOnPlane(upwards);
    const ahead = [towards, [1, 0, 0], [0, 1, 0]].map(level).find((direction) => direction.length() > 1e-2).normalize();
    ahead.applyAxisAngle(upwards, 0.35);
    this.camera.position.copy(ahead.multiplyScalar(Math.cos(elevation))).addScaledVector(upwards, Math.sin(elevation));
  }

  // Drag turns, drag with Shift or the right button moves, wheel zooms once the view has been clicked.
  attach(canvas) {
    canvas.tabIndex = 0;
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) event.stopImmediatePropagation();
    }, { capture: true });
    const controls = new THREE.OrbitControls(this.camera, canvas);
    this.controls ??= controls;
    Object.assign(controls, { target: this.target, minDistance: 1 / 40, maxDistance: 1 / 0.15, rotateSpeed: 0.7 });
    canvas.style.touchAction = "pan-y"; // a finger that moves up or down scrolls the page
    controls.addEventListener("change", () => this.changed.forEach((draw) => draw()));
    canvas.addEventListener("dblclick", () => this.reset());
    const keys = {
      ArrowLeft: () => controls.rotateLeft(-0.1), ArrowRight: () => controls.rotateLeft(0.1),
      ArrowUp: () => controls.rotateUp(-0.1), ArrowDown: () => controls.rotateUp(0.1),
      "+": () => controls.dollyIn(1 / 1.15), "-": () => controls.dollyOut(1 / 1.15), 0: () => this.reset(),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  reset() {
    this.controls.reset();
  }

  lookFrom(direction) {
    const distance = this.camera.position.distanceTo(this.target);
    this.target.set(0, 0, 0);
    this.camera.position.set(...direction).setLength(distance);
    this.controls.update();
  }

  // Places a camera for an image of this aspect, which without zoom holds a sphere of radius `extent`. Its distance to the target.
  place(camera, aspect, extent) {
    this.camera.updateMatrix();
    camera.copy(this.camera);
    const fit = extent / Math.sin((FIELD_OF_VIEW / 2) * (Math.PI / 180)) / Math.min(1.2, aspect);
    const distance = fit * this.camera.position.distanceTo(this.target);
    camera.position.multiplyScalar(fit);
    Object.assign(camera, { aspect, near: Math.max(distance - 30 * extent, distance * 0.02), far: distance + 40 * extent });
    camera.updateProjectionMatrix();
    camera.updateMatrixWorld();
    return distance;
  }
}

// A canvas that shows one surface of a scene; `look()` says how: {mode, top, extent, group, labels}.
class Pane {
  constructor(orbit, look) {
    Object.assign(this, { orbit, look, surface: null, mesh: null, visible: false, waiting: false });
    this.canvas = element("canvas", { className: "pane" });
    this.canvas.setAttribute("aria-label", "3D view: drag to turn");
    this.world = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera();
    this.lights = lights();
    this.solid = new THREE.Mesh();
    this.cameras = new THREE.Group();
    this.world.add(this.lights, this.solid, this.cameras);
    orbit.attach(this.canvas);
    orbit.changed.add(() => this.request());
    new ResizeObserver(() => this.request()).observe(this.canvas);
    new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
      this.request();
    }, { rootMargin: "100px" }).observe(this.canvas);
    document.addEventListener("redraw", () => this.update());
  }

  async show(surface) {
    this.surface = surface;
    this.mesh = null;
    this.update();
    if (!surface) return;
    const mesh = await unpackMesh(surface);
    if (this.surface !== surface) return;
    this.mesh = mesh;
    this.request();
  }

  // Takes over a new look.
  update() {
    this.cameras.children.forEach((each) => each.geometry.dispose());
    this.cameras.clear();
    this.shown = this.look(this.surface);
    if (this.shown.group) this.cameras.add(...this.shown.group.children);
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
    const { canvas, camera, mesh, solid, surface } = this;
    const { mode, top, extent, labels } = this.shown;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height) return;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const distance = this.orbit.place(camera, width / height, extent);
    this.lights.quaternion.copy(camera.quaternion);
    solid.visible = Boolean(mesh);
    if (mesh) solid.geometry = renderer().geometry(mesh);
    solid.material = renderer().surface(mode === "distance" && !surface?.header.values ? "shaded" : mode, top);
    renderer().draw(canvas, this.world, camera, ratio);
    this.label(labels, distance, ratio);
    canvas.dataset.drawn = mesh ? surface.key : "empty";
  }

  label(labels, distance, ratio) {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.font = `${11 * ratio}px ${style("--sans")}`;
    context.textAlign = "center";
    context.fillStyle = style("--muted");
    for (const { text, at } of labels) {
      const depth = -at.clone().applyMatrix4(this.camera.matrixWorldInverse).z;
      if (depth <= 0) continue;
      const { x, y } = at.clone().project(this.camera);
      context.globalAlpha = depth < distance ? 1 : 0.45;
      context.fillText(text, ((x + 1) / 2) * width, ((1 - y) / 2) * height - 6 * ratio);
    }
    context.globalAlpha = 1;
  }
}

const MODES = [["Shaded", "shaded"], ["Normals", "normals"], ["Distance error", "distance"]];

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
    surface: scene.first, beside: "", mode: "shaded", top: scene.valueTop, start: true, result: true, reference: true,
    labels: true, images: false, far: 0, times: 1,
  };
  const orbit = new Orbit(scene, 0.3);
  const look = (surface) => {
    const cameras = drawnCameras(scene, surface ?? find(state.surface), state);
    const extent = Math.max(scene.radius * 1.02, cameras.extent);
    return { ...cameras, mode: state.mode, top: state.top, extent };
  };
  const panes = [new Pane(orbit, look), new Pane(orbit, look)];
  const captions = panes.map(() => element("figcaption"));
  const stage = element("div", { className: "stage" });
  panes.forEach((pane, i) => stage.append(element("figure", {}, pane.canvas, captions[i])));
  const redraw = () => panes.forEach((pane) => pane.update());
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
  };
  const legend = distanceLegend(scene, (top) => set({ top }));
  const modes = MODES.filter(([, mode]) => mode !== "distance" || scene.valueTop > 0);
  const views = scene.cameras.flatMap((set) => Object.values(set.sets)).at(-1) ?? {};
  const lookFrom = Object.keys(scene.reference ?? views);
  const bar = element("div", { className: "toolbar" });
  bar.append(
    chooser("Surface", [...groups], state.surface, (surface) => choose({ surface })),
    chooser("beside", [["", [["nothing", ""]]], ...groups], "", (beside) => choose({ beside })),
    segmented("Colours", modes, state.mode, (mode) => {
      legend.hidden = mode !== "distance";
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
    toggle("images", "--muted", false, (images) => set({ images })),
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
  reset.addEventListener("click", () => orbit.reset());
  const full = element("button", { type: "button", textContent: "Full screen" });
  full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : host.requestFullscreen()));
  second.append(element("span", { className: "end" }, reset, full));
  stage.append(legend);
  const hint = "Drag to turn, Shift-drag to move, click and then scroll to zoom, double-click to reset.";
  host.replaceChildren(bar, stage, second, element("p", { className: "hint", textContent: hint }));
  choose({});
}

// The surfaces of one experiment at all kept iterations, turned together.
function mountSeries(host, scene) {
  const surfaces = scene.surfaces.filter((surface) => surface.group === host.dataset.group);
  const truth = scene.surfaces.find((surface) => surface.key === "truth");
  const state = { mode: "normals", top: scene.valueTop };
  const orbit = new Orbit(scene, 0.25);
  const look = () => ({ ...state, extent: scene.radius * 1.07, labels: [] });
  const row = element("div", { className: "row" });
  const panes = [...surfaces, ...(truth ? [truth] : [])].map((surface) => {
    const pane = new Pane(orbit, look);
    const note = surface.note ? element("small", { textContent: surface.note }) : "";
    row.append(element("figure", {}, pane.canvas, element("figcaption", {}, surface.label, note)));
    pane.show(surface);
    return pane;
  });
  const redraw = () => panes.forEach((pane) => pane.update());
  const legend = distanceLegend(scene, (top) => {
    state.top = top;
    redraw();
  });
  const modes = MODES.filter(([, mode]) => mode !== "distance" || scene.valueTop > 0);
  const bar = element("div", { className: "toolbar" }, segmented("Colours", modes, state.mode, (mode) => {
    state.mode = mode;
    legend.hidden = mode !== "distance";
    redraw();
  }), legend);
  host.replaceChildren(bar, row);
}
