// The page: tabs, galleries, the enlarged view, and everything that is drawn only when it is seen.

const report = JSON.parse(document.getElementById("report-data").textContent);

for (const tabs of document.querySelectorAll("[data-tabs]")) {
  const buttons = [...tabs.querySelectorAll(":scope > [role=tablist] > [role=tab]")];
  const open = (chosen, focus) => {
    for (const button of buttons) {
      const isChosen = button === chosen;
      button.setAttribute("aria-selected", isChosen);
      button.tabIndex = isChosen ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).hidden = !isChosen;
    }
    if (focus) chosen.focus();
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => open(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) open(buttons[(i + step + buttons.length) % buttons.length], true);
    });
  });
  if (buttons.length) open(buttons[0]);
}

// A link to something inside a closed tab opens the tab first.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let panel = target?.closest("[role=tabpanel]"); panel; panel = panel.parentElement.closest("[role=tabpanel]"))
    document.querySelector(`[aria-controls="${CSS.escape(panel.id)}"]`).click();
  target?.scrollIntoView();
}
window.addEventListener("hashchange", reveal);
if (location.hash) reveal();

// A click on an image shows all layers of its view, as large as the window allows.
const box = document.getElementById("lightbox");
let shown = [];

function enlarge(tile) {
  const gallery = tile.closest("[data-gallery]");
  const view = tile.dataset.view;
  shown = [...new Set([...gallery.querySelectorAll("[data-view]")].map((one) => one.dataset.view))];
  const also = document.getElementById(gallery.dataset.also);
  const layers = [gallery, also].flatMap((one) => (one ? [...one.querySelectorAll(".layer")] : []));
  const figures = layers.flatMap((layer) => {
    const found = layer.querySelector(`[data-view="${CSS.escape(view)}"] img`);
    if (!found) return [];
    const image = element("img", { src: found.src, alt: found.alt, className: found.className });
    const extra = layer.querySelector(".scale")?.cloneNode(true) ?? "";
    return [element("figure", {}, element("span", { className: "frame" }, image), element("figcaption", {}, layer.dataset.name, extra))];
  });
  const step = (by) => {
    const next = shown[(shown.indexOf(view) + by + shown.length) % shown.length];
    enlarge(gallery.querySelector(`[data-view="${CSS.escape(next)}"]`));
  };
  box.querySelector("h3").textContent = `${gallery.dataset.gallery} · view ${view}`;
  box.querySelector(".figures").replaceChildren(...figures);
  box.querySelector(".figures").classList.toggle("many", figures.length > 4);
  box.onkeydown = (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  };
  box.querySelector(".previous").onclick = () => step(-1);
  box.querySelector(".next").onclick = () => step(1);
  if (!box.open) box.showModal();
}
document.addEventListener("click", (event) => {
  const tile = event.target.closest("button.tile");
  if (tile) enlarge(tile);
  if (event.target === box || event.target.closest(".close")) box.close();
});

async function mount(host, build) {
  const scene = report.scenes[host.dataset.scene];
  await library("three");
  if (!renderer()) {
    const text = "This browser shows no WebGL: the 3D view cannot be drawn.";
    host.replaceChildren(element("p", { className: "problem", textContent: text }));
    return;
  }
  if (!scene.images) {
    const sheet = element("img", { src: document.getElementById(scene.atlas).textContent });
    await sheet.decode();
    scene.images = imageMaterial(sheet);
  }
  build(host, scene);
}

for (const host of document.querySelectorAll("[data-chart]")) whenSeen(host, () => drawChart(host));
for (const host of document.querySelectorAll(".viewer")) whenSeen(host, () => mount(host, mountViewer));
for (const host of document.querySelectorAll(".series")) whenSeen(host, () => mount(host, mountSeries));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  restyleCharts();
  document.dispatchEvent(new Event("redraw"));
});
